{{- define "kserve.fullname" -}}
{{ .Release.Name }}-kserve
{{- end }}

{{- define "kserve.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "kserve.selectorLabels" . }}
app.kubernetes.io/component: kserve
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "kserve.selectorLabels" -}}
app.kubernetes.io/name: kserve
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Takes a dict of `global` and `image`. */}}
{{- define "kserve.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}
{{- end }}
