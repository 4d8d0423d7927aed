{{- /* Written by scripts/chart: do not edit. */}}
{{- define "grafana.fullname" -}}
{{ .Release.Name }}-grafana
{{- end }}

{{- define "grafana.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{ include "grafana.podLabels" . }}
{{- end }}

{{- /* Labels of pods. A part with more than one workload gives the name of the others: dict "name" "…" "Release" .Release */}}
{{- define "grafana.podLabels" -}}
{{ include "grafana.selectorLabels" . }}
app.kubernetes.io/component: grafana
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "grafana.selectorLabels" -}}
app.kubernetes.io/name: {{ .name | default "grafana" }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Reference of an image: dict "global" .Values.global "image" .Values.image */}}
{{- define "grafana.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* Volume with the certificate authorities as ca.crt; nothing where there are none. It takes global.caCertificate */}}
{{- define "grafana.caVolume" -}}
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

{{- define "grafana.findings" }}{{ end }}
