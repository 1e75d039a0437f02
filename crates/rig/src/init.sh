#!/bin/busybox sh
# The emulated host's first program: loads modules, then goes on to the disk.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo "rig: alive, in memory"
for module in /modules/*.ko; do insmod "$module" || echo "the module $module could not be loaded"; done
mount -t ext4 -o noinit_itable /dev/vda /disk || poweroff -f
for folder in proc sys dev; do mount --move "/$folder" "/disk/$folder"; done
exec switch_root /disk /usr/bin/busybox sh /rig/run
