// kube-router's NetworkPolicies and nothing else of it: routing, BGP and the
// service proxy are not compiled in. kube-proxy stays the proxy of Services.
package main

import (
	"context"
	"flag"
	"net/http"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cloudnativelabs/kube-router/v2/pkg/controllers/netpol"
	"github.com/cloudnativelabs/kube-router/v2/pkg/healthcheck"
	"github.com/cloudnativelabs/kube-router/v2/pkg/options"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

func main() {
	config := options.NewKubeRouterConfig()
	config.EnableIPv4 = true
	config.ClusterIPCIDRs = make([]string, 1)
	klog.InitFlags(nil)
	flag.StringVar(&config.Kubeconfig, "kubeconfig", "", "kubeconfig of an account that lists and watches pods, namespaces, NetworkPolicies and nodes")
	flag.StringVar(&config.HostnameOverride, "hostname-override", "", "name of this node")
	flag.StringVar(&config.ClusterIPCIDRs[0], "service-cluster-ip-range", "", "addresses of Services")
	flag.DurationVar(&config.IPTablesSyncPeriod, "iptables-sync-period", time.Minute, "time between two writings of all rules, in which nothing changed")
	address := flag.String("healthz-bind-address", "127.0.0.1:10258", "address that answers GET /healthz")
	flag.Parse()
	if err := run(config, *address); err != nil {
		klog.Fatal(err)
	}
}

func run(config *options.KubeRouterConfig, address string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	rest, err := clientcmd.BuildConfigFromFlags("", config.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	pods, namespaces := factory.Core().V1().Pods().Informer(), factory.Core().V1().Namespaces().Informer()
	policies := factory.Networking().V1().NetworkPolicies().Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	tables, sets, err := netpol.NewIPTablesHandlers(config)
	if err != nil {
		return err
	}
	controller, err := netpol.NewNetworkPolicyController(client, config, pods, policies, namespaces, &sync.Mutex{}, tables, sets)
	if err != nil {
		return err
	}
	if _, err = pods.AddEventHandler(controller.PodEventHandler); err != nil {
		return err
	}
	if _, err = namespaces.AddEventHandler(controller.NamespaceEventHandler); err != nil {
		return err
	}
	if _, err = policies.AddEventHandler(controller.NetworkPolicyEventHandler); err != nil {
		return err
	}

	// a heartbeat at each writing of the rules; none for three periods: unhealthy
	heartbeats := make(chan *healthcheck.ControllerHeartbeat, 10)
	var last atomic.Int64
	go func() {
		for range heartbeats {
			last.Store(time.Now().UnixNano())
		}
	}()
	http.HandleFunc("/healthz", func(answer http.ResponseWriter, _ *http.Request) {
		if time.Since(time.Unix(0, last.Load())) > 3*config.IPTablesSyncPeriod {
			http.Error(answer, "the rules are not written", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Addr: address, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.ListenAndServe(); err != http.ErrServerClosed {
			klog.Fatal(err)
		}
	}()

	var group sync.WaitGroup
	group.Add(1)
	go controller.Run(heartbeats, ctx.Done(), &group)
	<-ctx.Done()
	group.Wait()
	return server.Close()
}
