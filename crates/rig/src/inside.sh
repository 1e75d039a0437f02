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
# A sign of life for ../machine.rs: whoever gives none is taken for dead.
while :; do
  echo "rig: alive after $(cut -d. -f1 /proc/uptime) s"
  sleep 10
done &
# For a step that does not end: where everything waits, once.
PATIENCE=${PATIENCE:-400}
tell_where() {
  sleep $PATIENCE
  echo "$1 has run for $PATIENCE s; where threads wait:"
  for task in /proc/[0-9]*/task/[0-9]*; do
    [ -n "$(head -c 1 "${task%/task/*}/cmdline")" ] || grep -q '^State:.D' "$task/status" || continue
    echo "  ${task##*/} $(cat "$task/comm"): $(cut -d' ' -f1 "$task/syscall") $(tr '\n' ' ' <"$task/stack")"
  done
}
while read -r name line; do
  echo "rig: start $name"
  tell_where "$name" &
  watcher=$!
  start=$(cut -d. -f1 /proc/uptime)
  sh -c "$line" </dev/null 2>&1
  status=$?
  kill $watcher 2>/dev/null
  end=$(cut -d. -f1 /proc/uptime)
  echo "rig: end $name $status $((end - start))"
done </rig/steps
echo "rig: done"
poweroff -f
