#!/usr/bin/env bash
# What the tests of devices need beyond Python: an ssh server, and an emulator for the ARM board. Where it cannot be
# installed, those tests run natively or are skipped, and say so; this script says so first, and never fails.
set -uo pipefail

if command -v /usr/sbin/sshd > /dev/null && [ -x /usr/bin/qemu-aarch64-static ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "!!! NO ARM BOARD: openssh-server and qemu-user-static are missing, and cannot be installed without root and apt" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
timeout 240 sh -c 'apt-get -qq update && apt-get -qq -y install --no-install-recommends openssh-server openssh-client \
  openssh-sftp-server qemu-user-static' > /dev/null ||
  echo "!!! NO ARM BOARD: apt could not install openssh-server and qemu-user-static within four minutes" >&2
