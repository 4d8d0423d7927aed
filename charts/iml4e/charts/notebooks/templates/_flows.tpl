{{- /* Written by scripts/chart from flows.yaml: do not edit. */}}
{{- /* Rule of egress to pods of this release, or to the address that values name instead of them: dict "pods" "…" "service" "…" "ports"
(list …) "address" "…" "outside" .Values.global.networkPolicy.outside.blocks "Release" .Release */}}
{{- define "notebooks.egress" -}}
{{- $url := urlParse .address }}
{{- $own := printf "%s-%s.%s.svc" .Release.Name .service .Release.Namespace }}
{{- $namespace := regexFind "^[^.]+[.][^.]+[.]svc([.]|$)" $url.hostname }}
{{- if or (eq $url.hostname $own) (hasPrefix (print $own ".") $url.hostname) }}
- to:
    - podSelector:
        matchLabels:
          app.kubernetes.io/name: {{ .pods }}
          app.kubernetes.io/instance: {{ .Release.Name | quote }}
  ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- else if $namespace }}
# the port of its Service says nothing of the port of its pods
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ index (splitList "." $namespace) 1 | quote }}
{{- else if and $url.hostname .outside }}
- to:
    {{- range .outside }}
    - ipBlock: {{ toJson . }}
    {{- end }}
  ports:
    - port: {{ regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "http" | ternary "80" "443") }}
      protocol: TCP
{{- end }}
{{- end }}
