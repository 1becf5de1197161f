{{/* Names and labels. */}}
{{- define "jobwatt.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 of 63 characters: pools and components are appended. */}}
{{- define "jobwatt.fullname" -}}
{{- $name := include "jobwatt.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "jobwatt.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: jobwatt
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* dict "root" $ "component" "node" */}}
{{- define "jobwatt.selector" -}}
app.kubernetes.io/name: {{ include "jobwatt.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "jobwatt.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository: name the image that you built (helm/Containerfile)" $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "jobwatt.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "jobwatt.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "jobwatt.tls" -}}
{{- if or .Values.web.tls .Values.web.certificateSecretName }}true{{ end -}}
{{- end -}}

{{/* Where the page's TLS and passwords are: "" for nowhere. */}}
{{- define "jobwatt.webConfig" -}}
{{- if or .Values.web.secretName .Values.web.certificateSecretName }}/etc/jobwatt/web/web.yml{{ end -}}
{{- end -}}
