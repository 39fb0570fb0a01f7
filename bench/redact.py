"""Takes out of a message what says whose machine it came from: folders, users, mail and network addresses."""

from __future__ import annotations

import ipaddress
import os
import re

# Folders that a path starts with. ONNX names look like paths too (/model.0/conv/Conv_output_0) and must survive, so a
# path is known by its first folder, or by a file's extension. /proc, /sys, /dev and /etc name nobody and stay.
_ROOTS = (
    "home|root|Users|tmp|usr|opt|var|lib|lib64|bin|sbin|boot|snap|nix|private|Volumes|work|workspace|mnt|media|data|srv|run|"
    "scratch|nfs|gpfs|lustre|kaggle|github|__w|sdcard|cygdrive|afs"
)
_SYSTEM = re.compile(r"/(?:usr|opt|lib|lib64|bin|sbin|nix|snap|boot)/")
# Of files that messages name. A tensor's name may end in .weight, a user's in .smith: only these are files.
_EXTENSION = re.compile(
    r"\.(?:onnx|ort|bin|param|mnn|pnnx|pb|pbtxt|pt|pth|npy|npz|engine|plan|trt|py|pyc|so|a|o|c|cc|cpp|cxx|cu|cuh|h|hpp|inl|"
    r"json|jsonl|toml|yaml|yml|cfg|conf|ini|txt|log|md|csv|sh|whl|zip|gz|xz|tar|pem|key|sock)(?:\.\d+)*$"
)
_END = r"\s'\"`,;:()\[\]{}<>|=*?!"
_QUOTED_PATH = re.compile(rf"(?P<quote>['\"`])(?:file://)?(?P<path>(?:/|~[\w.-]*/)(?:{_ROOTS})?[^'\"`\n]*)(?P=quote)")
_PATH = re.compile(rf"(?<![\w.~/-])(?:file://)?(?P<path>(?:/+(?:{_ROOTS})(?=[/.{_END}]|$)|~[\w.-]*/)[^{_END}]*)")
_FILE = re.compile(rf"(?<![\w.~/:-])(?:file://)?(?P<path>/(?:[^{_END}/]+/)+[^{_END}/]+)")
_WINDOWS = re.compile(r"\b[A-Za-z]:\\(?:[^\\\s'\":]+\\)*([^\\\s'\":]*)")
_STARTS_AT_ROOT = re.compile(rf"/+(?:{_ROOTS})(?:[/.]|$)|~")
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
# name@host, but neither a symbol's version (memcpy@GLIBC_2.14) nor an operator's (Conv@13).
_MAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?!(?:[A-Z][A-Z0-9]*_)+\d)(?:(?:\d{1,3}\.){3}\d{1,3}|[A-Za-z][\w-]*(?:\.[\w-]+)*)"
)
# Four numbers are an address unless a version's word stands before them: TensorRT 10.13.3.9, ==9.2.0.1, lib-1.2.3.4.
_VERSIONED = (
    r"version|release|driver|firmware|tensorrt|trt|cudnn|cuda|cublas|ncnn|mnn|onnx|onnxruntime|openvino|torch|numpy"
)
_IPV4 = re.compile(
    rf"(?P<version>(?:\b(?:{_VERSIONED})[\s:=(v-]+|==|>=|<=|~=|!=|\bv|\w-|_))?(?<![\d.])(?P<ip>\d+(?:\.\d+){{3}})(?!\d|\.\d)",
    re.IGNORECASE,
)
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:%\w+)?(?![\w:])")
_MAC = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![\w:])")


def public(text: str) -> str:
    """The text without folders, users, mail and network addresses: records may become public.

    What stays is what a reader needs: a file's own name, URLs, versions, shapes, and the names of ONNX nodes and
    tensors, unless their first part is the name of a common top folder (`/data/...`, `/media/...`).
    """
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = re.sub(rf"(?<![\w.]){re.escape(home)}(?![\w.-])", "~/", text)
    text = _LOGIN.sub("", text)
    text = _QUOTED_PATH.sub(lambda m: m["quote"] + _scrubbed(m["path"]) + m["quote"], text)
    text = _PATH.sub(lambda m: _scrubbed(m["path"]), text)
    text = _FILE.sub(lambda m: _scrubbed(m["path"]), text)
    text = _WINDOWS.sub(r"...\\\1", text)
    text = _MAIL.sub("<address>", text)
    text = _IPV4.sub(_without_ipv4, text)
    text = _MAC.sub("<address>", text)
    return _IPV6.sub(_without_ipv6, text)


def _scrubbed(path: str) -> str:
    """A path's last part, where that is a file's or a program's own name; a folder's name may be a user's."""
    stem = path.rstrip("/")
    name = stem.rpartition("/")[2]
    if _EXTENSION.search(name) or (_SYSTEM.match(path) and name):
        return f".../{name}" if "/" in stem.strip("/") or _STARTS_AT_ROOT.match(path) else path
    return "..." if _STARTS_AT_ROOT.match(path) else path


def _without_ipv4(match: re.Match[str]) -> str:
    return match[0] if match["version"] or not _is_ip(match["ip"]) else "<address>"


def _without_ipv6(match: re.Match[str]) -> str:
    address = match[0].partition("%")[0]
    return "<address>" if _is_ip(address) and re.search(r"\d", address) else match[0]


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
