# Runs the steps inside the emulated host; ../report.rs reads the marks.
busybox=/usr/bin/busybox
$busybox mkdir -p /rig/bin
$busybox --install -s /rig/bin
export PATH=/usr/bin:/rig/bin HOME=/tmp
. /rig/environment
mkdir -p "$TMPDIR"
mount -t tmpfs -o size=1g,mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /run
ifconfig lo 127.0.0.1
while read -r name line; do
  echo "rig: start $name"
  start=$(cut -d. -f1 /proc/uptime)
  sh -c "$line" </dev/null 2>&1
  status=$?
  end=$(cut -d. -f1 /proc/uptime)
  echo "rig: end $name $status $((end - start))"
done </rig/steps
echo "rig: done"
poweroff -f
