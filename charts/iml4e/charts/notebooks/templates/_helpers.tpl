{{- /* Written by scripts/chart: do not edit. */}}
{{- define "notebooks.fullname" -}}
{{ .Release.Name }}-notebooks
{{- end }}

{{- define "notebooks.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{ include "notebooks.podLabels" . }}
{{- end }}

{{- /* Labels of pods. A part with more than one workload gives the name of the others: dict "name" "…" "Release" .Release */}}
{{- define "notebooks.podLabels" -}}
{{ include "notebooks.selectorLabels" . }}
app.kubernetes.io/component: notebooks
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "notebooks.selectorLabels" -}}
app.kubernetes.io/name: {{ .name | default "notebooks" }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Reference of an image: dict "global" .Values.global "image" .Values.image */}}
{{- define "notebooks.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* Volume with the certificate authorities as ca.crt; nothing where there are none. It takes global.caCertificate */}}
{{- define "notebooks.caVolume" -}}
{{- $items := printf "[{key: %q, path: ca.crt}]" .key }}
{{- if .existingSecret -}}
- name: ca-certificate
  secret:
    secretName: {{ .existingSecret | quote }}
    items: {{ $items }}
{{- else if .existingConfigMap -}}
- name: ca-certificate
  configMap:
    name: {{ .existingConfigMap | quote }}
    items: {{ $items }}
{{- end }}
{{- end }}
