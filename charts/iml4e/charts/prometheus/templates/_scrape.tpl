{{- /* Jobs of Prometheus, as a YAML list. */}}
{{- define "prometheus.scrapeConfigs" -}}
- job_name: prometheus
  metrics_path: /prometheus/metrics
  static_configs:
    - targets: [localhost:9090]
      labels:
        namespace: {{ .Release.Namespace | quote }}
        component: prometheus

# Parts of this release: pod annotations give port and path of metrics.
- job_name: parts
  kubernetes_sd_configs:
    - role: pod
      namespaces:
        names: [{{ .Release.Namespace | quote }}]
      selectors:
        - role: pod
          label: app.kubernetes.io/instance={{ .Release.Name }}
  relabel_configs:
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape]
      regex: "true"
      action: keep
    # only running pods are targets
    - source_labels: [__meta_kubernetes_pod_phase]
      regex: Running
      action: keep
    # discovery yields a target per container port: replacing the port by the annotated one leaves one target
    - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_io_port]
      regex: ([^:]+);(\d+)
      replacement: $1:$2
      target_label: __address__
    - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_io_port]
      regex: (.*:.*);(\d+)
      replacement: "[$1]:$2"
      target_label: __address__
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path]
      regex: (.+)
      target_label: __metrics_path__
    - source_labels: [__meta_kubernetes_namespace]
      target_label: namespace
    - source_labels: [__meta_kubernetes_pod_name]
      target_label: pod
    - source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_component]
      target_label: component
  metric_relabel_configs:
    # Traefik names a router after HTTPRoute, listener and a hash; label `route` is
    # <namespace>-<name of the HTTPRoute>; for a model, the name of the InferenceService.
    - source_labels: [router]
      regex: httproute-(.+)-gw-{{ tpl .Values.global.gateway.namespace . }}-{{ tpl .Values.global.gateway.name . }}-ep-.+
      target_label: route
    # HEAD marks requests of the probe. Kubeflow Pipelines knows no HEAD: the probe has an HTTPRoute of its own there
    - source_labels: [route]
      regex: (.+)-pipelines-probe
      target_label: method
      replacement: HEAD
    - source_labels: [route]
      regex: (.+-pipelines)-probe
      target_label: route
    # one series per run, lost at each restart of Kubeflow Pipelines' API server
    - source_labels: [__name__]
      regex: resource_manager_workflow_runs_(success|failed)
      action: drop
    # MinIO: the series that rules and dashboards use, of five hundred
    - source_labels: [component, __name__]
      regex: minio;minio_(audit|cluster_(erasure_set|iam|usage_objects|usage_buckets_(object_|since))|notification|scanner|system).*
      action: drop
    - source_labels: [component, __name__]
      regex: minio;(go|process)_.*
      action: drop
    # MariaDB: the same, of a thousand
    - source_labels: [__name__]
      regex: mysql_(up|global_status_(aborted_connects|bytes_(received|sent)|connection_errors_total|innodb_buffer_pool_(reads|read_requests)|innodb_row_lock_waits|queries|slow_queries|threads_(connected|running)|uptime)|global_variables_(innodb_buffer_pool_size|max_connections))
      target_label: __tmp_wanted
      replacement: "yes"
    - source_labels: [__name__, __tmp_wanted]
      regex: mysql_.*;
      action: drop
    - regex: __tmp_wanted
      action: labeldrop
    # MinIO has one server with one drive here
    - regex: server|pool_index|set_index
      action: labeldrop

# Model servers in any namespace: annotations of their runtime give port and path of metrics.
- job_name: models
  kubernetes_sd_configs:
    - role: pod
      selectors:
        - role: pod
          label: serving.kserve.io/inferenceservice
  relabel_configs:
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_kserve_io_port]
      regex: \d+
      action: keep
    - source_labels: [__meta_kubernetes_pod_phase]
      regex: Running
      action: keep
    - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_kserve_io_port]
      regex: ([^:]+);(\d+)
      replacement: $1:$2
      target_label: __address__
    - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_kserve_io_port]
      regex: (.*:.*);(\d+)
      replacement: "[$1]:$2"
      target_label: __address__
    - source_labels: [__meta_kubernetes_pod_annotation_prometheus_kserve_io_path]
      regex: (.+)
      target_label: __metrics_path__
    - source_labels: [__meta_kubernetes_namespace]
      target_label: namespace
    - source_labels: [__meta_kubernetes_pod_label_serving_kserve_io_inferenceservice]
      target_label: inferenceservice
    - source_labels: [__meta_kubernetes_pod_name]
      target_label: pod

# Pods of this release, of models and of pipeline runs, as series `up` with what their labels say: which model and version, which run and
# step. The pods are not asked: every target is Prometheus itself, with an empty answer.
{{- range $job := list "pods" "pods-not-running" }}
- job_name: {{ $job }}
  metrics_path: /prometheus/federate
  params:
    match[]: [absent]
  kubernetes_sd_configs:
    - role: pod
      namespaces:
        names: [{{ $.Release.Namespace | quote }}]
      selectors:
        - role: pod
          label: app.kubernetes.io/instance={{ $.Release.Name }}
    - role: pod
      selectors:
        - role: pod
          label: serving.kserve.io/inferenceservice
    - role: pod
      selectors:
        - role: pod
          label: pipeline/runid
  relabel_configs:
    - source_labels: [__meta_kubernetes_pod_phase, __meta_kubernetes_pod_ready]
      regex: {{ if eq $job "pods" }}Running;.*{{ else }}(Pending|Failed|Unknown);.*|Running;false{{ end }}
      action: keep
    - target_label: __address__
      replacement: localhost:9090
    - target_label: instance
      replacement: ""
    {{- if eq $job "pods-not-running" }}
    - source_labels: [__meta_kubernetes_pod_phase]
      target_label: phase
    - source_labels: [phase]
      regex: Running
      target_label: phase
      replacement: NotReady
    {{- end }}
    - source_labels: [__meta_kubernetes_namespace]
      target_label: namespace
    - source_labels: [__meta_kubernetes_pod_name]
      target_label: pod
    - source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_part_of, __meta_kubernetes_pod_label_app_kubernetes_io_component]
      regex: iml4e;(.+)
      target_label: component
    - source_labels: [__meta_kubernetes_pod_label_serving_kserve_io_inferenceservice]
      target_label: inferenceservice
    - source_labels: [__meta_kubernetes_pod_annotation_iml4e_org_model]
      target_label: model
    - source_labels: [__meta_kubernetes_pod_annotation_iml4e_org_model_version]
      target_label: version
    - source_labels: [__meta_kubernetes_pod_annotation_iml4e_org_latency_objective]
      target_label: latency_objective
    # Kubeflow Pipelines' pods, then those of the engine `local`
    - source_labels: [__meta_kubernetes_pod_label_pipeline_runid]
      target_label: run
    - source_labels: [__meta_kubernetes_pod_label_iml4e_org_run]
      regex: (.+)
      target_label: run
    # WORKFLOW-12345.root.STEP.executor, its driver WORKFLOW-12345.root.STEP-driver, and the run's WORKFLOW-12345.root-driver
    - source_labels: [__meta_kubernetes_pod_annotation_workflows_argoproj_io_node_name]
      regex: ([^.]+)-[a-z0-9]{5}[.]root.*
      target_label: pipeline
    - source_labels: [__meta_kubernetes_pod_annotation_workflows_argoproj_io_node_name]
      regex: .+[.]root[.](.+)[.]executor
      target_label: step
    - source_labels: [__meta_kubernetes_pod_annotation_workflows_argoproj_io_node_name]
      regex: .+[.]root[.](.+)-driver
      target_label: step
      replacement: $1 (driver)
    - source_labels: [__meta_kubernetes_pod_annotation_workflows_argoproj_io_node_name]
      regex: .+[.]root-driver
      target_label: step
      replacement: (driver)
    - source_labels: [__meta_kubernetes_pod_label_iml4e_org_pipeline]
      regex: (.+)
      target_label: pipeline
    - source_labels: [__meta_kubernetes_pod_label_iml4e_org_pipeline]
      regex: .+
      replacement: all
      target_label: step
{{- end }}
{{- if .Values.probe.enabled }}

# Every part and model that the gateway serves, asked at the gateway. A Service names its path in the annotation iml4e.org/probe.
- job_name: probes
  metrics_path: /probe
  kubernetes_sd_configs:
    - role: service
      namespaces:
        names: [{{ .Release.Namespace | quote }}]
      selectors:
        - role: service
          label: app.kubernetes.io/instance={{ .Release.Name }}
    - role: service
      selectors:
        - role: service
          label: serving.kserve.io/inferenceservice,component=predictor
  relabel_configs:
    # parts that say how, and models
    - source_labels: [__meta_kubernetes_service_label_serving_kserve_io_inferenceservice, __meta_kubernetes_service_annotation_iml4e_org_probe]
      regex: (.+;.*|;.+)
      action: keep
    - source_labels: [__meta_kubernetes_service_annotation_iml4e_org_probe]
      regex: "off"
      action: drop
    - target_label: __param_module
      replacement: head
    - source_labels: [__meta_kubernetes_service_annotation_iml4e_org_probe]
      regex: GET /.+
      target_label: __param_module
      replacement: get
    - target_label: __tmp_path
      replacement: /v2/health/ready
    - source_labels: [__meta_kubernetes_service_annotation_iml4e_org_probe]
      regex: (?:GET )?(/.*)
      target_label: __tmp_path
    - source_labels: [__tmp_path]
      target_label: __param_target
      replacement: {{ tpl .Values.global.gateway.url . }}$1
    - source_labels: [__meta_kubernetes_service_label_serving_kserve_io_inferenceservice, __meta_kubernetes_namespace, __tmp_path]
      regex: (.+);(.+);(.+)
      target_label: __param_target
      replacement: {{ tpl .Values.global.gateway.url . }}/models/$2/$1$3
    - source_labels: [__param_target]
      target_label: instance
    - source_labels: [__meta_kubernetes_namespace]
      target_label: namespace
    - source_labels: [__meta_kubernetes_service_label_app_kubernetes_io_part_of, __meta_kubernetes_service_label_app_kubernetes_io_component]
      regex: iml4e;(.+)
      target_label: component
    - source_labels: [__meta_kubernetes_service_label_serving_kserve_io_inferenceservice]
      target_label: inferenceservice
    # the name of the HTTPRoute, as in the gateway's metrics
    - source_labels: [namespace, component]
      regex: (.+);(.+)
      target_label: route
      replacement: $1-{{ .Release.Name }}-$2
    - source_labels: [namespace, inferenceservice]
      regex: (.+);(.+)
      target_label: route
      replacement: $1-$2
    - target_label: __address__
      replacement: {{ include "prometheus.fullname" . }}-probe.{{ .Release.Namespace }}.svc:9115
  metric_relabel_configs:
    - source_labels: [__name__]
      regex: probe_(success|duration_seconds|http_status_code|http_duration_seconds)
      action: keep

# Certificates: Services name them in the annotation iml4e.org/certificate, as a port.
- job_name: certificates
  metrics_path: /probe
  scrape_interval: 5m
  params:
    module: [certificate]
  kubernetes_sd_configs:
    - role: service
      namespaces:
        names: [{{ .Release.Namespace | quote }}]
      selectors:
        - role: service
          label: app.kubernetes.io/instance={{ .Release.Name }}
  relabel_configs:
    - source_labels: [__meta_kubernetes_service_name, __meta_kubernetes_namespace, __meta_kubernetes_service_annotation_iml4e_org_certificate]
      regex: (.+);(.+);([0-9]+)
      target_label: __param_target
      replacement: $1.$2.svc:$3
    - source_labels: [__param_target]
      regex: .+
      action: keep
    - source_labels: [__param_target]
      target_label: instance
    - source_labels: [__meta_kubernetes_namespace]
      target_label: namespace
    - source_labels: [__meta_kubernetes_service_label_app_kubernetes_io_component]
      target_label: component
    - source_labels: [__meta_kubernetes_service_name]
      target_label: name
    - target_label: __address__
      replacement: {{ include "prometheus.fullname" . }}-probe.{{ .Release.Namespace }}.svc:9115
  metric_relabel_configs:
    - source_labels: [__name__]
      regex: probe_(success|ssl_earliest_cert_expiry)
      action: keep
{{- end }}
{{- if .Values.kubelet.enabled }}

# CPU and memory of containers. TLS verification is off: most kubelets have self-signed certificates.
- job_name: containers
  scheme: https
  metrics_path: /metrics/resource
  authorization:
    credentials_file: /var/run/secrets/kubernetes.io/serviceaccount/token
  tls_config:
    insecure_skip_verify: true
  kubernetes_sd_configs:
    - role: node
  relabel_configs:
    - source_labels: [__meta_kubernetes_node_name]
      target_label: node
  metric_relabel_configs:
    - source_labels: [__name__]
      regex: container_(cpu_usage_seconds_total|memory_working_set_bytes|start_time_seconds)
      action: keep

# Limits, throttling and lack of memory: what /metrics/resource lacks. cadvisor's series of a pod have no name of a container;
# those of containers are missing where cadvisor does not know the container runtime.
- job_name: cgroups
  scheme: https
  metrics_path: /metrics/cadvisor
  authorization:
    credentials_file: /var/run/secrets/kubernetes.io/serviceaccount/token
  tls_config:
    insecure_skip_verify: true
  kubernetes_sd_configs:
    - role: node
  relabel_configs:
    - source_labels: [__meta_kubernetes_node_name]
      target_label: node
  metric_relabel_configs:
    - source_labels: [__name__, pod]
      regex: container_(oom_events_total|cpu_cfs_(throttled_)?periods_total|spec_(memory_limit_bytes|cpu_quota|cpu_period));.+
      action: keep
    # a pod's sandbox is neither the pod nor a container of it
    - source_labels: [container, image]
      regex: ;.+
      action: drop
    - regex: id|name|image
      action: labeldrop

# Used space of volumes.
- job_name: volumes
  scheme: https
  metrics_path: /metrics
  authorization:
    credentials_file: /var/run/secrets/kubernetes.io/serviceaccount/token
  tls_config:
    insecure_skip_verify: true
  kubernetes_sd_configs:
    - role: node
  relabel_configs:
    - source_labels: [__meta_kubernetes_node_name]
      target_label: node
  metric_relabel_configs:
    # a neighbour's volumes are no concern of this release
    - source_labels: [__name__, namespace]
      regex: kubelet_volume_stats_(available|capacity|used)_bytes;{{ .Release.Namespace }}
      action: keep
{{- end }}
{{- /* an operator is told of the exporter by the exporter's own ServiceMonitor */}}
{{- if and .Values.gpus.enabled (eq .Values.global.monitoring.mode "bundled") }}

# GPUs: NVIDIA's DCGM exporter in any namespace, as the GPU operator and the exporter's own chart label it. The exporter's labels
# namespace, pod and container name who uses the GPU.
- job_name: gpus
  honor_labels: true
  kubernetes_sd_configs:
    - role: pod
      selectors:
        - role: pod
          label: app=nvidia-dcgm-exporter
    - role: pod
      selectors:
        - role: pod
          label: app.kubernetes.io/name in (dcgm-exporter,gke-managed-dcgm-exporter)
  relabel_configs:
    - source_labels: [__meta_kubernetes_pod_phase, __meta_kubernetes_pod_container_port_number]
      regex: Running;9400
      action: keep
    - source_labels: [__meta_kubernetes_pod_node_name]
      target_label: node
  metric_relabel_configs:
    - source_labels: [__name__]
      regex: DCGM_FI_(DEV_(GPU_UTIL|FB_USED|FB_FREE|GPU_TEMP|POWER_USAGE|XID_ERRORS)|PROF_GR_ENGINE_ACTIVE)
      action: keep
{{- end }}
{{- end }}
