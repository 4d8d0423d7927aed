{{- define "backup.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{ include "backup.podLabels" . }}
{{- end }}

{{- define "backup.podLabels" -}}
app.kubernetes.io/name: backup
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: backup
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* What is backed up, as YAML: `databases` with the Secret of each, their `order`, whether one needs `tls`; `buckets` with name and Secret of each. */}}
{{- define "backup.stores" -}}
{{- $on := dict }}
{{- range .Chart.Dependencies }}{{ $_ := set $on .Name true }}{{ end }}
{{- $databases := dict }}
{{- $order := list }}
{{- $tls := false }}
{{- $buckets := dict }}
{{- /* what refers to another comes before it: a run of a pipeline names its lineage and its run in MLflow */}}
{{- with .Subcharts.pipelines }}
{{- $order = list "mlpipeline" "metadb" }}
{{- $tls = has (get .Values.api.database.parameters "tls" | toString) (list "true" "preferred") }}
{{- $_ := set $databases "mlpipeline" (tpl .Values.api.database.existingSecret .) }}
{{- $_ := set $databases "metadb" (tpl .Values.metadata.database.existingSecret .) }}
{{- $_ := set $buckets "pipelines" (dict "name" .Values.global.s3.buckets.pipelines "secret" (tpl .Values.s3.existingSecret .)) }}
{{- end }}
{{- with .Subcharts.mlflow }}
{{- $order = append $order "mlflow" }}
{{- $tls = or $tls .Values.database.tls }}
{{- $_ := set $databases "mlflow" (tpl .Values.database.existingSecret .) }}
{{- $_ := set $buckets "mlflow" (dict "name" .Values.global.s3.buckets.mlflow "secret" (tpl .Values.s3.existingSecret .)) }}
{{- end }}
{{- /* databases that people added to those of the parts */}}
{{- if include "iml4e.isOwn" (dict "host" (tpl .Values.global.database.host .) "service" "mariadb" "Release" .Release) }}
{{- range .Values.mariadb.databases }}
{{- if not (has .name (list "mlflow" "mlpipeline" "metadb")) }}
{{- $order = append $order .name }}
{{- $_ := set $databases .name (tpl (.existingSecret | default "") $ | default (printf "%s-db-%s" $.Release.Name (replace "_" "-" .name))) }}
{{- end }}
{{- end }}
{{- end }}
{{- if or $on.mlflow $on.pipelines }}
{{- $_ := set $buckets "datasets" (dict "name" .Values.global.s3.buckets.datasets "secret" (tpl .Values.runner.s3Secret .)) }}
{{- end }}
{{- if not .Values.backup.objects }}
{{- $buckets = dict }}
{{- end }}
{{- dict "databases" $databases "order" $order "tls" $tls "buckets" $buckets | toYaml }}
{{- end }}

{{- /* Environment of the two steps that run files/backup.py. */}}
{{- define "backup.environment" -}}
{{- $stores := include "backup.stores" . | fromYaml }}
{{- $buckets := dict }}
{{- range $role, $bucket := $stores.buckets }}{{ $_ := set $buckets $role $bucket.name }}{{ end }}
{{- $left := list }}
{{- with .Subcharts.minio }}
{{- range .Values.buckets }}
{{- if not (has (tpl .name $) (values $.Values.global.s3.buckets)) }}{{ $left = append $left (tpl .name $) }}{{ end }}
{{- end }}
{{- end }}
{{- $ca := or .Values.global.caCertificate.existingSecret .Values.global.caCertificate.existingConfigMap }}
- name: MODE
  value: backup
- name: WORK
  value: /work
- name: DATABASES
  value: {{ join " " $stores.order | quote }}
- name: DATABASE_HOST
  value: {{ tpl .Values.global.database.host . | quote }}
- name: DATABASE_PORT
  value: {{ .Values.global.database.port | quote }}
- name: RELEASE
  value: {{ .Release.Name | quote }}
- name: NAMESPACE
  value: {{ .Release.Namespace | quote }}
- name: NAMESPACES
  value: {{ without .Values.backup.namespaces .Release.Namespace | join " " | quote }}
- name: CONFIGMAPS
  value: {{ join " " .Values.backup.configMaps | quote }}
- name: SECRETS
  value: {{ join " " .Values.backup.secrets | quote }}
- name: CHART
  value: {{ .Chart.Version | quote }}
- name: GATEWAY
  value: {{ dict "name" (tpl .Values.global.gateway.name .) "namespace" (tpl .Values.global.gateway.namespace .) | toJson | quote }}
- name: BUCKETS
  value: {{ toJson $buckets | quote }}
- name: BUCKETS_LEFT_OUT
  value: {{ $left | uniq | join " " | quote }}
- name: S3_ENDPOINT
  value: {{ tpl .Values.global.s3.endpoint . | quote }}
- name: S3_ADDRESSING_STYLE
  value: {{ .Values.global.s3.addressingStyle }}
- name: S3_REGION
  value: {{ .Values.global.s3.region | quote }}
- name: DESTINATION
  value: {{ .Values.backup.destination.s3 | default "/backups" | quote }}
- name: DESTINATION_ENDPOINT
  value: {{ .Values.backup.destination.endpoint | quote }}
- name: DESTINATION_REGION
  value: {{ .Values.backup.destination.region | quote }}
- name: KEEP_FOR
  value: {{ .Values.backup.keep.for | quote }}
- name: KEEP_AT_LEAST
  value: {{ .Values.backup.keep.minimum | quote }}
- name: ALERT_AFTER
  value: {{ .Values.backup.alertAfter | quote }}
- name: METRICS
  value: {{ not (empty .Subcharts.prometheus) | quote }}
- name: HOME
  value: /tmp
{{- if $stores.tls }}
- name: DATABASE_CA
  value: {{ if $ca }}/etc/ssl/iml4e/ca.crt{{ else }}/etc/ssl/certs/ca-certificates.crt{{ end }}
{{- end }}
{{- if $ca }}
- name: AWS_CA_BUNDLE
  value: /etc/ssl/iml4e/ca.crt
{{- end }}
{{- end }}

{{- /* Kinds that a backup reads, as rules of a role. */}}
{{- define "backup.rules" -}}
- apiGroups: [serving.kserve.io]
  resources: [inferenceservices, inferencegraphs, servingruntimes, trainedmodels]
  verbs: [list]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [list]
- apiGroups: [kubeflow.org]
  resources: [scheduledworkflows]
  verbs: [list]
{{- end }}
