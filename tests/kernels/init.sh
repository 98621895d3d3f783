#!/usr/bin/busybox sh
# First process of the test machine: mounts, modules, tests, exit status to the serial console, end.
export PATH=/usr/bin HOME=/root LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
exec </dev/null >/dev/ttyS0 2>&1
for module in /modules/*.ko; do
	insmod "$module" || echo "podwire-kernel-test: cannot load $module"
done
ip link set lo up
echo "podwire-kernel-test: Linux $(uname -r)"
cd /repo || reboot -f
export PYTHONPATH=/site:/repo:/repo/src:/repo/collections PYTHONDONTWRITEBYTECODE=1
export @ENVIRONMENT@
# Two processors, two halves of the tests: the second one's report follows the first one's.
run() {
	python3 -m pytest -p no:cacheprovider --color=no "$@"
}
run @FIRST@ &
first=$!
run @SECOND@ >/tmp/second.log 2>&1 &
second=$!
wait $first
status=$?
wait $second
other=$?
cat /tmp/second.log
[ $status = 0 ] && status=$other
echo "podwire-kernel-test: exit=$status"
reboot -f
