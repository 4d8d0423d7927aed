{{- define "minio.fullname" -}}
{{ .Release.Name }}-minio
{{- end }}

{{- define "minio.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "minio.selectorLabels" . }}
app.kubernetes.io/component: minio
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "minio.selectorLabels" -}}
app.kubernetes.io/name: minio
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Takes a dict of `global` and `image`. */}}
{{- define "minio.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}
{{- end }}
