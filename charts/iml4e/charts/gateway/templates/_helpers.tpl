{{- /* Written by scripts/chart: do not edit. */}}
{{- define "gateway.fullname" -}}
{{ .Release.Name }}-gateway
{{- end }}

{{- define "gateway.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "gateway.podLabels" . }}
{{- end }}

{{- /* Labels of pods. A part with more than one workload gives the name of the others: dict "name" "…" "Release" .Release */}}
{{- define "gateway.podLabels" -}}
{{ include "gateway.selectorLabels" . }}
app.kubernetes.io/component: gateway
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "gateway.selectorLabels" -}}
app.kubernetes.io/name: {{ .name | default "gateway" }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Reference of an image: dict "global" .Values.global "image" .Values.image */}}
{{- define "gateway.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}
