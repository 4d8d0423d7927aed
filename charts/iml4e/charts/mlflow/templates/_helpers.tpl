{{- /* Written by scripts/chart: do not edit. */}}
{{- define "mlflow.fullname" -}}
{{ .Release.Name }}-mlflow
{{- end }}

{{- define "mlflow.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{ include "mlflow.podLabels" . }}
{{- end }}

{{- /* Labels of pods. A part with more than one workload gives the name of the others: dict "name" "…" "Release" .Release */}}
{{- define "mlflow.podLabels" -}}
{{ include "mlflow.selectorLabels" . }}
app.kubernetes.io/component: mlflow
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "mlflow.selectorLabels" -}}
app.kubernetes.io/name: {{ .name | default "mlflow" }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Reference of an image: dict "global" .Values.global "image" .Values.image */}}
{{- define "mlflow.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* Volume with the certificate authorities as ca.crt; nothing where there are none. It takes global.caCertificate */}}
{{- define "mlflow.caVolume" -}}
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
