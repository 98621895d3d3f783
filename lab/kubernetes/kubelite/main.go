// SPDX-License-Identifier: Apache-2.0

// kubelite runs a whole Kubernetes node in one process: API server, controller manager, scheduler, kube-proxy and kubelet,
// each with the arguments of its own file. It keeps the contract of the MicroK8s daemon of that name: an error of any
// component ends the process, and so does a clean return, except that of kube-proxy (`--cleanup` returns by design).
package main

import (
	"context"
	"flag"
	"io/ioutil"
	"math/rand"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/klog/v2"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// How long the API server may take to answer before the daemon gives up and is started again.
const apiServerPatience = 90 * time.Second

// How long the API server may drain connections after a stop signal.
const shutdownGrace = 2 * time.Second

func main() {
	rand.Seed(time.Now().UnixNano())
	flags := pflag.NewFlagSet("kubelite", pflag.ExitOnError)
	apiserverFile := flags.String("apiserver-args-file", "", "arguments of kube-apiserver")
	controllerManagerFile := flags.String("controller-manager-args-file", "", "arguments of kube-controller-manager")
	schedulerFile := flags.String("scheduler-args-file", "", "arguments of kube-scheduler")
	proxyFile := flags.String("proxy-args-file", "", "arguments of kube-proxy")
	kubeletFile := flags.String("kubelet-args-file", "", "arguments of kubelet")
	kubeconfig := flags.String("kubeconfig-file", "", "credentials used to wait for the API server")
	controlPlane := flags.Bool("start-control-plane", true, "run API server, controller manager and scheduler too")
	_ = flags.Parse(os.Args[1:]) // ExitOnError

	logs.InitLogs()
	pflag.CommandLine.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	pflag.CommandLine.AddGoFlagSet(flag.CommandLine)
	// Components would fill the log with warnings about the deprecated API versions that they use on purpose.
	rest.SetDefaultWarningHandler(rest.NoWarnings{})

	stop, stopped := make(chan struct{}), make(chan struct{})
	exitOnSignal(stop, stopped)

	if *controlPlane {
		go runAPIServer(readArgs(*apiserverFile), stop, stopped)
		waitForAPIServer(*kubeconfig)
		start(controllermanager.NewControllerManagerCommand(), readArgs(*controllerManagerFile), mustStay)
		start(scheduler.NewSchedulerCommand(), readArgs(*schedulerFile), mustStay)
	}
	if !*controlPlane {
		close(stopped)
	}
	start(proxy.NewProxyCommand(), readArgs(*proxyFile), mayReturn)
	start(kubelet.NewKubeletCommand(), readArgs(*kubeletFile), mustStay)
	select {}
}

// readArgs returns the arguments in a file of the args directory. An unreadable file ends the process.
func readArgs(path string) []string {
	text, err := ioutil.ReadFile(path)
	if err != nil {
		klog.Fatalf("cannot read the arguments: %v", err)
	}
	return parseArgs(string(text), os.Getenv)
}

// exitOnSignal closes stop at the first SIGTERM or SIGINT and ends the process when the API server has stopped, or soon after.
func exitOnSignal(stop chan<- struct{}, stopped <-chan struct{}) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		close(stop)
		select {
		case <-stopped:
		case <-time.After(shutdownGrace):
		}
		logs.FlushLogs()
		os.Exit(0)
	}()
}

// runAPIServer does what the kube-apiserver command does, without its signal handler: the kubelet installs the same one,
// and installing it twice panics.
func runAPIServer(args []string, stop <-chan struct{}, stopped chan<- struct{}) {
	options := apiserveroptions.NewServerRunOptions()
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ExitOnError)
	flags.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	sets := options.Flags()
	globalflag.AddGlobalFlags(sets.FlagSet("global"), "kube-apiserver")
	for _, set := range sets.FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(args); err != nil {
		klog.Fatalf("kube-apiserver: %v", err)
	}
	completed, err := apiserver.Complete(options)
	if err != nil {
		klog.Fatalf("kube-apiserver: %v", err)
	}
	if errs := completed.Validate(); len(errs) != 0 {
		klog.Fatalf("kube-apiserver: %v", errs)
	}
	if err := apiserver.Run(completed, stop); err != nil {
		klog.Fatalf("kube-apiserver: %v", err)
	}
	select {
	case <-stop:
		close(stopped)
	default:
		klog.Fatal("kube-apiserver ended")
	}
}

// waitForAPIServer returns when /readyz answers ok; after apiServerPatience it ends the process.
func waitForAPIServer(kubeconfig string) {
	deadline := time.Now().Add(apiServerPatience)
	var last error
	for time.Now().Before(deadline) {
		if last = probeAPIServer(kubeconfig); last == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	klog.Fatalf("the API server is not ready after %v: %v", apiServerPatience, last)
}

func probeAPIServer(kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.Timeout = 5 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(context.Background()).Error()
}

// What a component's clean return means.
const (
	mustStay  = false
	mayReturn = true
)

// start parses args now and runs the command in the background. Flags are parsed one command after the other, since the
// commands share pflag's global flag set, which is not safe for concurrent use.
func start(command *cobra.Command, args []string, cleanReturn bool) {
	name := command.Use
	rest := args
	if !command.DisableFlagParsing {
		if err := command.ParseFlags(args); err != nil {
			klog.Fatalf("%s: %v", name, err)
		}
		rest = command.Flags().Args()
		if len(rest) > 0 {
			klog.Fatalf("%s takes no arguments, got %q", name, rest)
		}
	}
	go func() {
		command.Run(command, rest)
		if cleanReturn == mayReturn {
			klog.Infof("%s returned; the other components go on", name)
			return
		}
		// On a stop signal the components return one by one: let exitOnSignal end the process cleanly.
		time.Sleep(shutdownGrace + time.Second)
		klog.Fatalf("%s ended", name)
	}()
}
