{{- /* Written by scripts/chart: do not edit. */}}
{{- define "pipelines.fullname" -}}
{{ .Release.Name }}-pipelines
{{- end }}

{{- define "pipelines.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "pipelines.podLabels" . }}
{{- end }}

{{- /* Labels of pods. A part with more than one workload gives the name of the others: dict "name" "…" "Release" .Release */}}
{{- define "pipelines.podLabels" -}}
{{ include "pipelines.selectorLabels" . }}
app.kubernetes.io/component: pipelines
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "pipelines.selectorLabels" -}}
app.kubernetes.io/name: {{ .name | default "pipelines" }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Reference of an image: dict "global" .Values.global "image" .Values.image */}}
{{- define "pipelines.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}
