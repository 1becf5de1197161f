{{/* One process per cluster: dict root, component, own (its values), file (its configuration), args. */}}
{{- define "jobwatt.central" -}}
{{- $name := printf "%s-%s" (include "jobwatt.fullname" .root) .component -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "jobwatt.selector" . | nindent 4 }}
    {{- include "jobwatt.labels" .root | nindent 4 }}
data:
  {{ .file }}: |-
    {{- .own.config | trim | nindent 4 }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "jobwatt.selector" . | nindent 4 }}
    {{- include "jobwatt.labels" .root | nindent 4 }}
spec:
  replicas: 1
  strategy: {type: Recreate}  # two would ask everybody twice
  selector:
    matchLabels:
      {{- include "jobwatt.selector" . | nindent 6 }}
  template:
    metadata:
      {{- $sum := dict "checksum/config" (sha256sum .own.config) }}
      {{- include "jobwatt.podMeta" (dict "root" .root "component" .component "annotations" (merge $sum .root.Values.podAnnotations)) | nindent 6 }}
    spec:
      {{- include "jobwatt.podBase" .root | nindent 6 }}
      {{- with .own.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .own.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "jobwatt.unprivileged" . | nindent 8 }}
      containers:
        - name: {{ .component }}
          image: {{ include "jobwatt.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [jobwatt]
          args:
            {{- toYaml .args | nindent 12 }}
            - --web.listen-address=:{{ .own.port }}
            {{- with include "jobwatt.webFlags" .root | trim }}{{ . | nindent 12 }}{{ end }}
          {{- if or .own.httpsProxy .own.noProxy }}
          env:
            {{- with .own.httpsProxy }}
            - {name: https_proxy, value: {{ . | quote }}}
            {{- end }}
            {{- with .own.noProxy }}
            - {name: no_proxy, value: {{ . | quote }}}
            {{- end }}
          {{- end }}
          ports:
            - {name: metrics, containerPort: {{ .own.port }}}
          {{- include "jobwatt.probes" .root | nindent 10 }}
          resources:
            {{- toYaml .own.resources | nindent 12 }}
          securityContext:
            {{- include "jobwatt.confined" . | nindent 12 }}
          volumeMounts:
            - {name: config, mountPath: /etc/jobwatt/config, readOnly: true}
            - {name: cache, mountPath: /var/cache/jobwatt}
            - {name: tmp, mountPath: /tmp}
            {{- with include "jobwatt.webMounts" .root | trim }}{{ . | nindent 12 }}{{ end }}
            {{- with include "jobwatt.secretMounts" .own.secretMounts | trim }}{{ . | nindent 12 }}{{ end }}
      volumes:
        - name: config
          configMap: {name: {{ $name }}}
        - name: cache
          {{- if .own.cacheClaim }}
          persistentVolumeClaim: {claimName: {{ .own.cacheClaim | quote }}}
          {{- else }}
          emptyDir: {sizeLimit: 16Mi}
          {{- end }}
        - name: tmp
          emptyDir: {sizeLimit: 16Mi}
        {{- with include "jobwatt.webVolumes" .root | trim }}{{ . | nindent 8 }}{{ end }}
        {{- with include "jobwatt.secretVolumes" .own.secretMounts | trim }}{{ . | nindent 8 }}{{ end }}
{{- end -}}
