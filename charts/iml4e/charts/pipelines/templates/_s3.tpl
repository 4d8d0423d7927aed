{{- /* The S3 store, as JSON: each of its readers here wants the address in another form. */}}
{{- define "pipelines.s3" -}}
{{- $endpoint := tpl .Values.global.s3.endpoint . | default (printf "https://s3.%s.amazonaws.com" .Values.global.s3.region) | urlParse }}
{{- $secure := eq $endpoint.scheme "https" }}
{{- dict "url" (printf "%s://%s" $endpoint.scheme $endpoint.host) "host" $endpoint.host "name" $endpoint.hostname
  "port" (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $endpoint.host) | default ($secure | ternary "443" "80")) "secure" $secure
  "secret" (tpl .Values.s3.existingSecret .) | toJson }}
{{- end }}
