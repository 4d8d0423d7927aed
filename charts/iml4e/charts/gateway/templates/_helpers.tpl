{{- /* Written by scripts/chart: do not edit. */}}
{{- define "gateway.fullname" -}}
{{ .Release.Name }}-gateway
{{- end }}

{{- define "gateway.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
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

{{- /* Volume with the certificate authorities as ca.crt; nothing where there are none. It takes global.caCertificate */}}
{{- define "gateway.caVolume" -}}
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
