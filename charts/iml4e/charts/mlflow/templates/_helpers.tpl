{{- define "mlflow.fullname" -}}
{{ .Release.Name }}-mlflow
{{- end }}

{{- define "mlflow.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "mlflow.selectorLabels" . }}
app.kubernetes.io/component: mlflow
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "mlflow.selectorLabels" -}}
app.kubernetes.io/name: mlflow
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Takes a dict of `global` and `image`. */}}
{{- define "mlflow.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}
{{- end }}
