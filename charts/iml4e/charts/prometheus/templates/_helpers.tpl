{{- define "prometheus.fullname" -}}
{{ .Release.Name }}-prometheus
{{- end }}

{{- define "prometheus.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "prometheus.selectorLabels" . }}
app.kubernetes.io/component: prometheus
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "prometheus.selectorLabels" -}}
app.kubernetes.io/name: prometheus
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Takes a dict of `global` and `image`. */}}
{{- define "prometheus.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}
{{- end }}
