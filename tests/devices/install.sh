#!/usr/bin/env bash
# What the tests of devices need beyond Python: an ssh server and an emulator for the ARM board, and a Vulkan driver,
# for which Mesa's on the CPU will do. Where they cannot be installed, those tests run natively or are skipped, and say
# so; this script says so first, and never fails.
set -uo pipefail
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1

install() { # WHAT IT IS FOR, PACKAGES...
  local what="$1"
  shift
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "!!! NO $what: $* are missing, and cannot be installed without root and apt" >&2
    return
  fi
  timeout 240 sh -c 'apt-get -qq update && apt-get -qq -y install --no-install-recommends "$@"' sh "$@" > /dev/null ||
    echo "!!! NO $what: apt could not install $* within four minutes" >&2
}

if ! command -v /usr/sbin/sshd > /dev/null || ! [ -x /usr/bin/qemu-aarch64-static ]; then
  install "ARM BOARD" openssh-server openssh-client openssh-sftp-server qemu-user-static
fi
if ! compgen -G "/usr/share/vulkan/icd.d/*.json" > /dev/null && ! compgen -G "/etc/vulkan/icd.d/*.json" > /dev/null; then
  install "VULKAN DRIVER" libvulkan1 mesa-vulkan-drivers
fi
exit 0
