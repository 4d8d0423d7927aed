{{- /* Checks of values alone. A finding is a line of text: what is wrong, and what to do. */}}

{{- /* Whether values have a key: dict "values" .Values "key" "global.s3.endpoint" */}}
{{- define "iml4e.has" }}
{{- $node := .values }}
{{- range splitList "." .key }}
{{- $node = and (kindIs "map" $node) (hasKey $node .) | ternary (get $node .) nil }}
{{- end }}
{{- if not (kindIs "invalid" $node) }}true{{ end }}
{{- end }}

{{- /* With --reuse-values Helm leaves out what a new version adds to the umbrella's values. */}}
{{- define "iml4e.findings.older" }}
{{- $missing := list }}
{{- range .Files.Get "files/values.yaml" | fromYamlArray }}
{{- if not (include "iml4e.has" (dict "values" $.Values "key" .)) }}{{ $missing = append $missing . }}{{ end }}
{{- end }}
{{- with $missing }}
The values lack {{ join ", " . }}: they are those of an earlier version of the chart. Upgrade with --reset-then-reuse-values instead of --reuse-values. Where null removed one, give it an empty value instead.
{{- end }}
{{- end }}

{{- define "iml4e.findings.removed" }}
{{- range .Files.Get "files/removed.yaml" | fromYamlArray }}
{{- if include "iml4e.has" (dict "values" $.Values "key" .key) }}
{{ .key }} {{ .cure }}.
{{- end }}
{{- end }}
{{- end }}

{{- /* The schema admits any key under `global`: as a dependency of another chart, this one is handed the keys of all its neighbours. */}}
{{- define "iml4e.findings.global" }}
{{- if .Chart.IsRoot }}
{{- $own := dict }}
{{- range .Files.Get "files/values.yaml" | fromYamlArray }}{{ $_ := set $own (splitList "." . | rest | first) true }}{{ end }}
{{- range $key, $_ := .Values.global }}
{{- if not (hasKey $own $key) }}
global.{{ $key }} is no value of this chart: correct or remove it (docs/values.md lists all).
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A map of maps: the schema cannot ask for a key, as values that reuse older ones may lack any. */}}
{{- define "iml4e.findings.gpus" }}
{{- range $name, $pool := .Values.global.gpuPools }}
{{- if not (get ($pool | default dict) "resources") }}
global.gpuPools.{{ $name }} names no resources, so no pod belongs to the pool: set global.gpuPools.{{ $name }}.resources, [nvidia.com/gpu] for example.
{{- end }}
{{- end }}
{{- end }}

{{- /* Names of objects start with the release's. Services want no dot and, on older Kubernetes, a letter first; the longest name is CronJob
       <release>-pipelines-retention, which may have 52 characters. */}}
{{- define "iml4e.findings.name" }}
{{- $longest := 32 }}
{{- $name := .Release.Name }}
{{- if or (not (regexMatch "^[a-z][-a-z0-9]*$" $name)) (gt (len $name) $longest) }}
{{- $other := regexReplaceAll "^([0-9])" $name "ml-${1}" | replace "." "-" | trunc $longest | trimSuffix "-" }}
Release name {{ $name }} cannot be used: names of objects begin with it, so it needs a letter first, no dot, and at most {{ $longest }} characters. Choose another, {{ $other }} for example.
{{- end }}
{{- end }}

{{- /* Whether a host is a Service of this release: dict "host" "…" "service" "minio" "Release" .Release */}}
{{- define "iml4e.isOwn" }}
{{- $service := printf "%s-%s" .Release.Name .service }}
{{- $inNamespace := printf "%s.%s" $service .Release.Namespace }}
{{- $host := lower .host }}
{{- if or (has $host (list $service $inNamespace (printf "%s.svc" $inNamespace))) (hasPrefix (printf "%s.svc." $inNamespace) $host) }}true{{ end }}
{{- end }}

{{- /* Whose Gateway serves the routes: `own` (of part gateway), `other` (global.gateway names it), or nothing where there is none. */}}
{{- define "iml4e.gateway" -}}
{{- $name := tpl .Values.global.gateway.name . }}
{{- $namespace := tpl .Values.global.gateway.namespace . }}
{{- if or (ne $name (printf "%s-gateway" .Release.Name)) (ne $namespace .Release.Namespace) }}other
{{- else if .Values.gateway.enabled }}own
{{- end }}
{{- end }}

{{- /* "true" where there is an MLflow: of this release, or another one that global.mlflow names. */}}
{{- define "iml4e.hasMlflow" -}}
{{- $url := tpl .Values.global.mlflow.url . | urlParse }}
{{- if or .Values.mlflow.enabled (not (include "iml4e.isOwn" (dict "host" $url.hostname "service" "mlflow" "Release" .Release))) }}true{{ end }}
{{- end }}

{{- /* Entries named twice, and Secrets of the own stores that parts read and nobody makes: a list in values replaces the whole default. */}}
{{- define "iml4e.findings.lists" }}
{{- $read := include "iml4e.secretsRead" . | fromYaml }}
{{- $s3 := tpl .Values.global.s3.endpoint . | urlParse }}
{{- with .Subcharts.minio }}
{{- $buckets := list }}
{{- range .Values.buckets }}
{{- if .expire }}
{{- $name := tpl .name $.Subcharts.minio }}
{{- if has $name $buckets }}
minio.buckets has rules of expiry for {{ $name }} in two entries: give one entry all of its rules.
{{- end }}
{{- $buckets = append $buckets $name }}
{{- end }}
{{- end }}
{{- $names := list }}
{{- $made := list }}
{{- range $each := .Values.consumers }}
{{- if has $each.name $names }}
minio.consumers names {{ $each.name }} twice: give one entry all of its buckets.
{{- end }}
{{- $names = append $names $each.name }}
{{- $made = tpl ($each.existingSecret | default "") $.Subcharts.minio | default (printf "%s-s3-%s" $.Release.Name $each.name) | append $made }}
{{- end }}
{{- if include "iml4e.isOwn" (dict "host" $s3.hostname "service" "minio" "Release" .Release) }}
{{- range $read.keys }}
{{- if and (hasPrefix (printf "%s-s3-" $.Release.Name) .) (not (has . $made)) }}
minio.consumers has no entry for Secret {{ . }}, which parts read: add that consumer (a list in values replaces the whole default list).
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $host := tpl .Values.global.database.host . }}
{{- with .Subcharts.mariadb }}
{{- $names := list }}
{{- $made := list }}
{{- range $each := .Values.databases }}
{{- if has $each.name $names }}
mariadb.databases names {{ $each.name }} twice: remove one of both.
{{- end }}
{{- $names = append $names $each.name }}
{{- $made = tpl ($each.existingSecret | default "") $.Subcharts.mariadb | default (printf "%s-db-%s" $.Release.Name (replace "_" "-" $each.name)) | append $made }}
{{- end }}
{{- if include "iml4e.isOwn" (dict "host" $host "service" "mariadb" "Release" .Release) }}
{{- range $read.accounts }}
{{- if and (hasPrefix (printf "%s-db-" $.Release.Name) .) (not (has . $made)) }}
mariadb.databases has no entry for Secret {{ . }}, which parts read: add that database (a list in values replaces the whole default list).
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Parts that are off although another part needs them. */}}
{{- define "iml4e.findings.wiring" }}
{{- $on := dict }}
{{- range .Chart.Dependencies }}{{ $_ := set $on .Name true }}{{ end }}
{{- $s3 := tpl .Values.global.s3.endpoint . | urlParse }}
{{- if and (not $on.minio) (or $on.mlflow $on.kserve $on.pipelines) (include "iml4e.isOwn" (dict "host" $s3.hostname "service" "minio" "Release" .Release)) }}
minio is off, but global.s3.endpoint still points to it: set global.s3.endpoint to your own store (empty means AWS).
{{- end }}
{{- if and (eq .Values.global.s3.addressingStyle "virtual") (include "iml4e.isOwn" (dict "host" $s3.hostname "service" "minio" "Release" .Release)) }}
global.s3.addressingStyle is virtual, but the release's MinIO has no name for each bucket: set it to path.
{{- end }}
{{- if and (not $on.mariadb) (or $on.mlflow $on.pipelines) (include "iml4e.isOwn" (dict "host" (tpl .Values.global.database.host .) "service" "mariadb" "Release" .Release)) }}
mariadb is off, but global.database.host still points to it: set global.database.host to your own MySQL or MariaDB.
{{- end }}
{{- if and $on.pipelines (not $on.mlflow) .Values.pipelines.mlflow.enabled }}
{{- if not (include "iml4e.hasMlflow" .) }}
mlflow is off, but pipelines tracks its runs there: set pipelines.mlflow.enabled=false, or global.mlflow.url to a server of your own.
{{- end }}
{{- end }}
{{- $prometheus := tpl .Values.global.monitoring.url . | urlParse }}
{{- if include "iml4e.isOwn" (dict "host" $prometheus.hostname "service" "prometheus" "Release" .Release) }}
{{- if eq .Values.global.monitoring.mode "operator" }}
global.monitoring.mode is operator, but global.monitoring.url still points to the Prometheus of this release: set global.monitoring.url to the operator's, http://prometheus-operated.monitoring.svc:9090 for example.
{{- else if and (not $on.prometheus) $on.grafana .Values.grafana.server.enabled }}
prometheus is off, but global.monitoring.url still points to it: set global.monitoring.url to a Prometheus of your own, or grafana.enabled=false.
{{- end }}
{{- end }}
{{- with .Values.global.caCertificate }}
{{- if and .existingSecret .existingConfigMap }}
global.caCertificate names a Secret and a ConfigMap: empty existingSecret or existingConfigMap, one holds all authorities.
{{- end }}
{{- end }}
{{- if not $on.gateway }}
{{- if not (include "iml4e.gateway" .) }}
{{- range .Chart.Dependencies }}
{{- if dig "route" "enabled" false (index $.Values .Name) }}
gateway is off, but {{ .Name }} wants a route through it: name your own Gateway in global.gateway, or set {{ .Name }}.route.enabled=false.
{{- end }}
{{- end }}
{{- else }}
{{- $url := tpl .Values.global.gateway.url . | urlParse }}
{{- if or (include "iml4e.isOwn" (dict "host" $url.hostname "service" "gateway" "Release" .Release)) (include "iml4e.isOwn" (dict "host" $url.hostname "service" "gateway-internal" "Release" .Release)) }}
gateway is off, but global.gateway.url still points to it: set global.gateway.url to the address of your own Gateway inside the cluster.
{{- end }}
{{- end }}
{{- end }}
{{- if and $on.gateway (not $on.home) .Values.gateway.errorPages.enabled }}
home is off, but gateway.errorPages takes the text of errors from it: set gateway.errorPages.enabled=false.
{{- end }}
{{- if and $on.gateway .Values.gateway.tls.enabled (hasPrefix "http://" .Values.global.publicUrl) }}
gateway.tls.enabled makes http a redirect to https, but global.publicUrl is {{ .Values.global.publicUrl }}: set global.publicUrl to the https address.
{{- end }}
{{- end }}

{{- /* A backup without a place, or in the store that it is a backup of. */}}
{{- define "iml4e.findings.backup" }}
{{- with .Values.backup }}
{{- if .enabled }}
{{- if and (not .destination.s3) (not .destination.existingClaim) }}
backup.enabled has no place for backups: set backup.destination.s3 to a bucket, s3://BUCKET/FOLDER, or backup.destination.existingClaim to a volume claim.
{{- end }}
{{- if and .destination.s3 .destination.existingClaim }}
backup.destination names a bucket and a volume claim: empty s3 or existingClaim.
{{- end }}
{{- $host := (urlParse .destination.endpoint).hostname }}
{{- if include "iml4e.isOwn" (dict "host" $host "service" "minio" "Release" $.Release) }}
backup.destination.endpoint is this release's own S3 store, which is lost together with its backups: name another store.
{{- end }}
{{- if and .secrets (not .encryption.existingSecret) }}
backup.secrets would be written in plain text: set backup.encryption.existingSecret as well.
{{- end }}
{{- if not (include "backup.stores" $ | fromYaml).databases }}
backup.enabled finds nothing to back up, as mlflow and pipelines are off: set backup.enabled=false.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
