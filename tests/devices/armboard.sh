#!/usr/bin/env bash
# An emulated 64-bit ARM board behind a real sshd on 127.0.0.1. Its speed says nothing about ARM.
#
#   armboard.sh setup DIR         the board's root in DIR: Debian's arm64 packages, python3 and sshd, nothing of ours (10 s)
#   armboard.sh start DIR PORT CPU  then: ssh -F DIR/ssh_config armboard uname -m (CPU: cortex-a72, cortex-a76, ...)
#   armboard.sh stop DIR
#
# Its kernel, processors and memory are this machine's. A whole machine, with its own, from the same root:
#
#   armboard.sh disk DIR            after setup: a disk with that root, and Debian's arm64 kernel (5 s)
#   armboard.sh boot DIR PORT CPU   with two processors and 1 GiB (3 s until one can log in); its disk keeps what it writes
#   armboard.sh halt DIR            as if its power was cut
#
# Needs root, openssh-client and Debian's package sources; the first a kernel with binfmt_misc and qemu-user-static, the
# second qemu-system-arm, cpio and e2fsprogs.
set -euo pipefail

command=$1 folder=$(readlink -m "$2") root=$(readlink -m "$2")/root

# apt, as if for a machine of that architecture: its own lists and packages, below DIR/apt.
foreign_apt() {
  mkdir -p "$folder"/apt/state/lists/partial "$folder"/apt/cache/archives/partial
  : > "$folder/apt/status"
  cat > "$folder/apt/apt.conf" <<END
APT::Architecture "arm64"; APT::Architectures { "arm64"; }; APT::Install-Recommends "false"; APT::Sandbox::User "root";
Dir::State "$folder/apt/state"; Dir::State::status "$folder/apt/status"; Dir::Cache "$folder/apt/cache";
Acquire::Languages "none"; Acquire::Retries "3";
END
  APT_CONFIG="$folder/apt/apt.conf" apt-get -qq update
}

setup() {
  mkdir -p "$root"
  foreign_apt
  APT_CONFIG="$folder/apt/apt.conf" apt-get -qq -y -d install bash coreutils grep sed procps openssh-server python3 \
    libgomp1 libstdc++6 > /dev/null
  # Unpacked only: no maintainer script is run, which is why it takes seconds and not minutes.
  for package in "$folder"/apt/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --exclude='./usr/share/doc' --exclude='./usr/share/man' \
      --exclude='./usr/share/locale'
  done
  rm -rf "$folder/apt"
  mkdir -p "$root"/{dev,proc,sys,tmp,run,root,etc/ssh,home/pi/.ssh}
  chmod 1777 "$root/tmp"; chmod 700 "$root/home/pi/.ssh"
  [ -e "$root/bin/sh" ] || ln -s dash "$root/bin/sh"
  printf 'root:x:0:0::/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\npi:x:1000:1000::/home/pi:/bin/bash\n' > "$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\npi:x:1000:\n' > "$root/etc/group"
  printf 'root:*:19000:0:99999:7:::\npi:*:19000:0:99999:7:::\n' > "$root/etc/shadow"; chmod 600 "$root/etc/shadow"
  printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files\n' > "$root/etc/nsswitch.conf"
  rm -f "$folder"/{id,id.pub,hostkey,hostkey.pub}
  ssh-keygen -q -t ed25519 -N '' -f "$folder/id"; ssh-keygen -q -t ed25519 -N '' -f "$folder/hostkey"
  install -m600 "$folder/hostkey" "$root/etc/ssh/ssh_host_ed25519_key"
  install -m600 "$folder/id.pub" "$root/home/pi/.ssh/authorized_keys"; chown -R 1000:1000 "$root/home/pi"
  printf '%s\n' "HostKey /etc/ssh/ssh_host_ed25519_key" "UsePAM no" "PasswordAuthentication no" \
    "KbdInteractiveAuthentication no" "PermitRootLogin no" "Subsystem sftp /usr/lib/openssh/sftp-server" \
    > "$root/etc/ssh/sshd_config"
}

# How ssh finds it on this port, as `armboard`.
reached_by() {
  echo "[127.0.0.1]:$1 $(cut -d' ' -f1,2 "$folder/hostkey.pub")" > "$folder/known_hosts"
  printf 'Host armboard\n HostName 127.0.0.1\n Port %s\n User pi\n IdentityFile %s/id\n IdentitiesOnly yes\n UserKnownHostsFile %s/known_hosts\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n' "$1" "$folder" "$folder" > "$folder/ssh_config"
}

# The kernel starts aarch64 programs through qemu; with the flag F it needs nothing inside the board's root.
binfmt() {
  local misc=/proc/sys/fs/binfmt_misc
  [ -e $misc/register ] || mount -t binfmt_misc binfmt_misc $misc
  [ -e $misc/qemu-aarch64 ] || printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:OCF' > $misc/register
}

# What the emulated CPU can do: qemu-user shows the host's /proc/cpuinfo, so a file is bound over it.
cpuinfo() {
  local features="fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid" part=0xd08
  [ "$1" != cortex-a76 ] || { features="$features atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"; part=0xd0b; }
  for core in $(seq 0 $(($(nproc) - 1))); do
    printf 'processor\t: %d\nBogoMIPS\t: 108.00\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 3\n\n' "$core" "$features" $part
  done
  printf 'Model\t\t: emulated %s\n' "$1"
}

start() {
  local port=$1 cpu=$2
  binfmt
  cpuinfo "$cpu" > "$folder/cpuinfo"
  reached_by "$port"
  R=$root F=$folder PORT=$port CPU=$cpu setsid unshare --mount --pid --fork --kill-child --propagation private bash -ec '
    mount -t proc proc $R/proc; mount --bind $F/cpuinfo $R/proc/cpuinfo
    mount -t tmpfs tmpfs $R/run; mkdir -m755 $R/run/sshd
    mount -t tmpfs tmpfs $R/dev; for d in null zero full random urandom tty; do : > $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
    mkdir $R/dev/shm; mount -t tmpfs tmpfs $R/dev/shm; ln -s /proc/self/fd $R/dev/fd
    exec chroot $R /usr/sbin/sshd -D -e -o "Port $PORT" -o "ListenAddress 127.0.0.1" -o "SetEnv QEMU_CPU=$CPU"' > "$folder/sshd.log" 2>&1 < /dev/null &
  echo $! > "$folder/pid"
  for _ in $(seq 100); do (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && return 0; sleep 0.1; done
  cat "$folder/sshd.log" >&2
  return 1
}

# unshare ignores TERM; --kill-child takes its whole process namespace down with it.
stop() { kill -KILL "$(cat "$folder/pid")"; }

# Modules that the kernel needs to see its disk and its network, in the order in which they need each other.
MODULES="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover virtio_net"

disk() {
  local new=$folder/initrd-root package module
  foreign_apt
  (
    cd "$folder/apt"
    export APT_CONFIG="$folder/apt/apt.conf"
    package=$(apt-cache depends linux-image-cloud-arm64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
    apt-get -qq download "$package" busybox-static
    for package in *.deb; do dpkg-deb -x "$package" unpacked; done
  )
  mkdir -p "$new"/{bin,modules,proc,sys,dev,board}
  cp "$folder/apt/unpacked/bin/busybox" "$new/bin"
  for module in $MODULES; do find "$folder/apt/unpacked/lib/modules" -name "$module.ko" -exec cp {} "$new/modules" \;; done
  # Mounts the disk, brings the network up as qemu has it, and leaves all else to sshd.
  cat > "$new/init" <<END
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t proc proc /proc; \$b mount -t sysfs sys /sys; \$b mount -t devtmpfs dev /dev
for m in $MODULES; do \$b insmod /modules/\$m.ko; done
for i in \$(\$b seq 100); do [ -b /dev/vda ] && break; \$b sleep 0.1; done
\$b mount -t ext4 /dev/vda /board || exec \$b poweroff -f
\$b ip link set lo up; \$b ip link set eth0 up; \$b ip addr add 10.0.2.15/24 dev eth0; \$b ip route add default via 10.0.2.2
for d in proc sys dev; do \$b mount --move /\$d /board/\$d; done
\$b mkdir -p /board/dev/pts /board/dev/shm
\$b mount -t devpts devpts /board/dev/pts; \$b mount -t tmpfs tmpfs /board/dev/shm; \$b mount -t tmpfs tmpfs /board/run
\$b mkdir -m755 /board/run/sshd
exec \$b switch_root /board /usr/sbin/sshd -D -e
END
  chmod 755 "$new/init"
  (cd "$new"; find . | cpio -o -H newc --quiet) > "$folder/initrd"
  cp "$folder"/apt/unpacked/boot/vmlinuz-* "$folder/vmlinuz"
  mke2fs -q -F -t ext4 -d "$root" "$folder/disk" 2G
  rm -rf "$folder/apt" "$new"
}

# Without KVM, wherever it is. It ends by itself after an hour, should nobody halt it.
boot() {
  local port=$1 cpu=$2 pid
  reached_by "$port"
  setsid timeout 3600 qemu-system-aarch64 -accel tcg -M virt -cpu "$cpu" -smp 2 -m 1024 -display none -no-reboot \
    -serial "file:$folder/console" -pidfile "$folder/pid" -kernel "$folder/vmlinuz" -initrd "$folder/initrd" \
    -append "console=ttyAMA0 quiet panic=-1" \
    -drive "if=none,file=$folder/disk,format=raw,cache=unsafe,id=disk" -device virtio-blk-pci,drive=disk \
    -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net,romfile= \
    > "$folder/qemu.log" 2>&1 < /dev/null &
  pid=$!
  # qemu takes connections from its first moment: only the machine's sshd says a word on them.
  for _ in $(seq 100); do
    kill -0 $pid 2> /dev/null || break
    banner "$port" && return 0
    sleep 0.2
  done
  cat "$folder/qemu.log" "$folder/console" >&2
  kill $pid 2> /dev/null || true
  return 1
}

banner() (
  exec 3<> "/dev/tcp/127.0.0.1/$1" || exit 1
  read -r -t 2 -u 3 said
  [[ $said == SSH-* ]]
) 2> /dev/null

halt() {
  local pid
  pid=$(cat "$folder/pid")
  kill -KILL "$pid"
  timeout 20 tail --pid="$pid" -s 0.1 -f /dev/null
}

shift 2
$command "$@"
