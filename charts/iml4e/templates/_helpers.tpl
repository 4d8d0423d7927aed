{{- define "runner.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: runner
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: runner
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* Fields of the PodSpec of a Job that runs a pipeline, as JSON. */}}
{{- define "iml4e.jobPodSpec" -}}
{{- $securityContext := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- if eq .Values.global.securityContext "chart" }}
{{- $securityContext = merge $securityContext (dict "runAsUser" 1000 "runAsGroup" 1000 "fsGroup" 1000) }}
{{- end }}
{{- $podSpec := dict "securityContext" $securityContext }}
{{- with .Values.global.nodeSelector }}
{{- $_ := set $podSpec "nodeSelector" . }}
{{- end }}
{{- with .Values.global.tolerations }}
{{- $_ := set $podSpec "tolerations" . }}
{{- end }}
{{- toJson $podSpec }}
{{- end }}
