{{- define "iml4e.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: runner
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: runner
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* "true" where there is a Gateway for routes: of this release, or another one that global.gateway names */}}
{{- define "iml4e.hasGateway" -}}
{{- $named := printf "%s/%s" (tpl .Values.global.gateway.namespace .) (tpl .Values.global.gateway.name .) }}
{{- if or .Values.gateway.enabled (ne $named (printf "%s/%s-gateway" .Release.Namespace .Release.Name)) }}true{{ end }}
{{- end }}

{{- /* "true" where global.gateway.url leads to a Service of this release's gateway */}}
{{- define "iml4e.ownGatewayUrl" -}}
{{- $services := printf "^%s-gateway(-internal)?[.]%s([.]|$)" (regexQuoteMeta .Release.Name) .Release.Namespace }}
{{- if regexMatch $services (urlParse (tpl .Values.global.gateway.url .)).hostname }}true{{ end }}
{{- end }}

{{- /* "true" where there is an MLflow: of this release, or another one that global.mlflow names */}}
{{- define "iml4e.hasMlflow" -}}
{{- $host := (urlParse (tpl .Values.global.mlflow.url .)).hostname }}
{{- if or .Values.mlflow.enabled (not (hasPrefix (printf "%s-mlflow.%s." .Release.Name .Release.Namespace) (printf "%s." $host))) }}true{{ end }}
{{- end }}
