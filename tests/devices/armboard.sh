#!/usr/bin/env bash
# An emulated 64-bit ARM board behind a real sshd on 127.0.0.1. Its speed says nothing about ARM.
#
#   armboard.sh setup DIR         the board's root in DIR: Debian's arm64 packages, python3 and sshd, nothing of ours (10 s)
#   armboard.sh start DIR PORT CPU  then: ssh -F DIR/ssh_config armboard uname -m (CPU: cortex-a72, cortex-a76, ...)
#   armboard.sh stop DIR
#
# Needs root, a kernel with binfmt_misc, qemu-user-static and openssh-client, and Debian's package sources.
set -euo pipefail

command=$1 folder=$(readlink -m "$2") root=$(readlink -m "$2")/root

setup() {
  mkdir -p "$folder"/apt/state/lists/partial "$folder"/apt/cache/archives/partial "$root"
  : > "$folder/apt/status"
  cat > "$folder/apt/apt.conf" <<END
APT::Architecture "arm64"; APT::Architectures { "arm64"; }; APT::Install-Recommends "false"; APT::Sandbox::User "root";
Dir::State "$folder/apt/state"; Dir::State::status "$folder/apt/status"; Dir::Cache "$folder/apt/cache";
Acquire::Languages "none"; Acquire::Retries "3";
END
  export APT_CONFIG="$folder/apt/apt.conf"
  apt-get -qq update
  apt-get -qq -y -d install bash coreutils grep sed procps openssh-server python3 libgomp1 libstdc++6 > /dev/null
  unset APT_CONFIG
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
  printf '%s\n' "Port $port" "ListenAddress 127.0.0.1" "HostKey /etc/ssh/ssh_host_ed25519_key" "UsePAM no" \
    "PasswordAuthentication no" "KbdInteractiveAuthentication no" "PermitRootLogin no" \
    "Subsystem sftp /usr/lib/openssh/sftp-server" "SetEnv QEMU_CPU=$cpu" > "$root/etc/ssh/sshd_config"
  echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$folder/hostkey.pub")" > "$folder/known_hosts"
  printf 'Host armboard\n HostName 127.0.0.1\n Port %s\n User pi\n IdentityFile %s/id\n IdentitiesOnly yes\n UserKnownHostsFile %s/known_hosts\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n' "$port" "$folder" "$folder" > "$folder/ssh_config"
  R=$root F=$folder setsid unshare --mount --pid --fork --kill-child --propagation private bash -ec '
    mount -t proc proc $R/proc; mount --bind $F/cpuinfo $R/proc/cpuinfo
    mount -t tmpfs tmpfs $R/run; mkdir -m755 $R/run/sshd
    mount -t tmpfs tmpfs $R/dev; for d in null zero full random urandom tty; do : > $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
    mkdir $R/dev/shm; mount -t tmpfs tmpfs $R/dev/shm; ln -s /proc/self/fd $R/dev/fd
    exec chroot $R /usr/sbin/sshd -D -e' > "$folder/sshd.log" 2>&1 < /dev/null &
  echo $! > "$folder/pid"
  for _ in $(seq 100); do (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && return 0; sleep 0.1; done
  cat "$folder/sshd.log" >&2
  return 1
}

# unshare ignores TERM; --kill-child takes its whole process namespace down with it.
stop() { kill -KILL "$(cat "$folder/pid")"; }

shift 2
$command "$@"
