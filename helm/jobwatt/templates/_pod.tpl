{{/* What the pods have in common. */}}

{{/* Settings as flags: a switch is --NAME or --no-NAME. */}}
{{- define "jobwatt.flags" -}}
{{- range $name, $value := . }}
{{- if kindIs "bool" $value }}
- --{{ if not $value }}no-{{ end }}{{ $name }}
{{- else }}
- {{ printf "--%s=%s" $name (toString $value) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "jobwatt.webFlags" -}}
{{- with include "jobwatt.webConfig" . }}
- --web.config.file={{ . }}
{{- end }}
{{- end -}}

{{- define "jobwatt.webMounts" -}}
{{- if include "jobwatt.webConfig" . }}
- {name: web, mountPath: /etc/jobwatt/web, readOnly: true}
{{- end }}
{{- if .Values.web.certificateSecretName }}
- {name: certificate, mountPath: /etc/jobwatt/tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "jobwatt.webVolumes" -}}
{{- if .Values.web.secretName }}
- name: web
  secret: {secretName: {{ .Values.web.secretName | quote }}, defaultMode: 0440}
{{- else if .Values.web.certificateSecretName }}
- name: web
  configMap: {name: {{ include "jobwatt.fullname" . }}-web}
{{- end }}
{{- with .Values.web.certificateSecretName }}
- name: certificate
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "jobwatt.secretMounts" -}}
{{- range . }}
- {name: secret-{{ .name }}, mountPath: /etc/jobwatt/secrets/{{ .name }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* 0440, root's and the pod's group: jobwatt takes no file that others may read. */}}
{{- define "jobwatt.secretVolumes" -}}
{{- range . }}
- name: secret-{{ .name }}
  secret: {secretName: {{ .secretName | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Health needs no password; a probe has no certificate, and where one is asked for an open port has to do. */}}
{{- define "jobwatt.probe" -}}
{{- if .root.Values.web.clientCertificates -}}
tcpSocket: {port: metrics}
{{- else -}}
httpGet: {path: {{ .path }}, port: metrics, scheme: {{ if include "jobwatt.tls" .root }}HTTPS{{ else }}HTTP{{ end }}}
{{- end }}
{{- end -}}

{{/* The server answers from the first sample on; a driver may take its time. */}}
{{- define "jobwatt.probes" -}}
startupProbe:
  {{- include "jobwatt.probe" (dict "root" . "path" "/healthz") | nindent 2 }}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  {{- include "jobwatt.probe" (dict "root" . "path" "/healthz") | nindent 2 }}
  periodSeconds: 30
  timeoutSeconds: 5
  failureThreshold: 4
readinessProbe:
  {{- include "jobwatt.probe" (dict "root" . "path" "/readyz") | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end -}}

{{- define "jobwatt.podMeta" -}}
labels:
  {{- include "jobwatt.selector" . | nindent 2 }}
  {{- with .pool }}
  jobwatt/pool: {{ . }}
  {{- end }}
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "jobwatt.podBase" -}}
serviceAccountName: {{ include "jobwatt.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* For pods that only talk: nobody's uid, nothing added. */}}
{{- define "jobwatt.unprivileged" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "jobwatt.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
