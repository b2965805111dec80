#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares `smolvmm disk` with qemu-img and qemu-io, on images that either of them made, and on damaged and hostile ones.

Prints a line for each test that passes; a test is a function whose docstring says what holds. Status 1 if one fails.
"""

import argparse
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback

K, M, G = 1 << 10, 1 << 20, 1 << 30
OK, FAILED, DAMAGED, LEAKING, USAGE = 0, 1, 2, 3, 64
SECONDS = 60  # for one command
FAST = 5  # for a refusal

SMOLVMM = None
TESTS = []

# Creation options of qemu-img, by name.
VARIANTS = {
    "version 2": "compat=0.10",
    "version 3": "compat=1.1",
    "lazy refcounts": "lazy_refcounts=on",
    "subclusters": "extended_l2=on",
    "subclusters of 512 bytes": "extended_l2=on,cluster_size=16k",
    "metadata preallocated": "preallocation=metadata",
    **{f"clusters of {size}": f"cluster_size={size}" for size in (512, "4k", "64k", "256k", "2M")},
    **{f"refcounts of {bits} bits": f"refcount_bits={bits}" for bits in (1, 2, 4, 8, 16, 32, 64)},
    "zstd": "compression_type=zstd",
    "zstd in clusters of 4 KiB": "compression_type=zstd,cluster_size=4k",
    "version 2 in clusters of 512": "compat=0.10,cluster_size=512",
}


def test(function):
    TESTS.append(function)
    return function


def run(*words, status=OK, fast=False):
    """What a command prints; it must end with `status`."""
    started = time.monotonic()
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=SECONDS)
    took = time.monotonic() - started
    allowed = status if isinstance(status, tuple) else (status,)
    text = f"{' '.join(map(str, words))}\n  status {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.returncode in allowed, f"expected status {status}: {text}"
    assert not fast or took < FAST, f"took {took:.1f} s: {text}"
    return done


def disk(*words, **options):
    return run(SMOLVMM, "disk", *words, **options)


def qemu(*words, **options):
    return run("qemu-img", *words, **options)


def qemu_io(image, *commands, extra=()):
    words = [word for command in commands for word in ("-c", command)]
    done = run("qemu-io", *extra, *words, image)
    assert "failed" not in done.stdout, done.stdout


def refused(*words, text):
    """The command ends fast with status 1 and a message with `text`."""
    done = disk(*words, status=FAILED, fast=True)
    assert done.stderr.startswith("smolvmm: error: ") and text in done.stderr, f"no '{text}' in: {done.stderr}"


def same(ours, theirs, what):
    assert ours == theirs, f"{what}: we say {ours}, qemu-img says {theirs}"


def same_common(ours, theirs, what, ignored=()):
    """All keys of qemu-img's are in ours, with the same values."""
    for key, value in theirs.items():
        if key in ignored:
            continue
        assert key in ours, f"{what}: '{key}' is missing, qemu-img has {value}"
        if isinstance(value, dict):
            same_common(ours[key], value, f"{what}: {key}", ignored)
        else:
            same(ours[key], value, f"{what}: {key}")


def compare_info(image):
    ours = json.loads(disk("info", "--json", image).stdout)
    theirs = json.loads(qemu("info", "--output=json", image).stdout)
    same_common(ours, theirs, f"info {image}", ignored={"bitmaps", "children"})


def compare_map(image, *options):
    ours = json.loads(disk("map", "--json", *options, image).stdout)
    theirs = json.loads(qemu("map", "--output=json", image).stdout)
    for one, other in zip(ours, theirs):
        same(one, other, f"map {image}")
    same(len(ours), len(theirs), f"map {image}: entries")


def compare_check(image, status=(OK,)):
    ours = disk("check", "--json", image, status=status)
    theirs = qemu("check", "--output=json", image, status=status)
    same(ours.returncode, theirs.returncode, f"check {image}: status")
    same_common(json.loads(ours.stdout), json.loads(theirs.stdout), f"check {image}")
    ours, theirs = disk("check", image, status=status).stdout, qemu("check", image, status=status).stdout
    same(ours, theirs, f"check {image}: text")


def compare_all(image, *options):
    compare_info(image)
    compare_map(image, *options)
    compare_check(image)


def compare_bytes(one, other):
    run("cmp", one, other)


def sound(image):
    """qemu-img finds nothing wrong."""
    qemu("check", image)


def read_back(image, reference, folder):
    """We read the same bytes from `image` as qemu-img, and write a sparse file of them."""
    ours = folder / "read-back.raw"
    disk("convert", "--force", "--format", "raw", image, ours)
    if reference:
        compare_bytes(ours, reference)
    theirs = folder / "theirs.raw"
    qemu("convert", "-O", "raw", image, theirs)
    compare_bytes(ours, theirs)
    assert ours.stat().st_blocks <= theirs.stat().st_blocks + 256, "our raw file takes more space than qemu-img's"


def fill(image, seed, size, writes=40, compressed=False, has_zeros=True):
    """Writes, zeroes and discards the same at random for the same arguments."""
    chance = random.Random(seed)
    commands = []
    for _ in range(writes):
        offset = chance.randrange(0, size // 512) * 512
        count = min(chance.choice([512, 4 * K, 64 * K, 200 * K + 512]), size - offset)
        kind = chance.randrange(10)
        if has_zeros and kind == 0:
            commands.append(f"write -z {offset} {count}")
        elif has_zeros and kind == 1:
            commands.append(f"write -z -u {offset} {count}")
        elif has_zeros and kind == 2:
            commands.append(f"discard {offset} {count}")
        elif compressed and kind < 7:
            # qemu-io compresses whole clusters only where nothing is yet; refusals are of no interest.
            commands.append(f"write -c -P {chance.randrange(1, 255)} {offset} {count}")
        else:
            commands.append(f"write -P {chance.randrange(1, 255)} {offset} {count}")
    words = [word for command in commands for word in ("-c", command)]
    run("qemu-io", *words, image, status=(OK, FAILED))


def raw_with_data(path, size, seed):
    """A sparse raw disk: text, noise, zeros."""
    chance = random.Random(seed)
    with open(path, "wb") as file:
        for _ in range(24):
            file.seek(chance.randrange(0, size // 512) * 512)
            length = min(chance.choice([512, 8 * K, 300 * K]), size - file.tell())
            kind = chance.randrange(3)
            if kind == 0:
                file.write(chance.randbytes(length))
            elif kind == 1:
                file.write((b"all work and no play makes a dull disk. " * (length // 40 + 1))[:length])
            else:
                file.write(bytes(length))
        file.truncate(size)


# Damage


def header(image):
    names = ("magic version backing_offset backing_size cluster_bits size crypt l1_size l1_offset refcount_offset "
             "refcount_clusters snapshots snapshot_offset incompatible compatible autoclear order length")
    with open(image, "rb") as file:
        return dict(zip(names.split(), struct.unpack(">IIQIIQIIQQIIQQQQII", file.read(104))))


def poke(image, offset, form, *values):
    with open(image, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(">" + form, *values))


def peek(image, offset, form):
    with open(image, "rb") as file:
        file.seek(offset)
        return struct.unpack(">" + form, file.read(struct.calcsize(">" + form)))[0]


def sample(folder, name="sample.qcow2", size="4M", options="compat=1.1"):
    image = folder / name
    qemu("create", "-f", "qcow2", "-o", options, image, size)
    qemu_io(image, "write -P 17 0 1M", "write -P 18 2M 64k")
    return image


def first_l2(image):
    return peek(image, header(image)["l1_offset"], "Q") & 0x00FFFFFFFFFFFE00


def first_block(image):
    return peek(image, header(image)["refcount_offset"], "Q")


# Tests


@test
def images_of_qemu(folder):
    """images that qemu-img made are shown, checked, mapped and read as qemu-img does, in every variant"""
    for name, options in VARIANTS.items():
        try:
            image = folder / "image.qcow2"
            qemu("create", "-f", "qcow2", "-o", options, image, "24M")
            fill(image, name, 24 * M, has_zeros="compat=0.10" not in options)
            read_back(image, None, folder)
            compare_info(image)
            compare_check(image)
            # Of preallocated clusters, qemu-img asks the file system whether they were ever written.
            if "preallocation" not in options:
                compare_map(image)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@test
def compressed_images_of_qemu(folder):
    """compressed images, whole and overwritten in part, are read as qemu-img does"""
    raw = folder / "source.raw"
    raw_with_data(raw, 24 * M, 1)
    for options in ("compat=0.10", "cluster_size=512", "cluster_size=2M", "compression_type=zstd",
                    "compression_type=zstd,cluster_size=2M", "refcount_bits=1", "extended_l2=on",
                    "compression_type=zstd,extended_l2=on,cluster_size=16k"):
        image, reference = folder / "image.qcow2", folder / "reference.raw"
        qemu("convert", "-c", "-O", "qcow2", "-o", options, raw, image)
        read_back(image, raw, folder)
        compare_all(image)
        run("cp", "--sparse=always", raw, reference)
        for path in (image, reference):
            fill(path, options, 24 * M, has_zeros=False)
        read_back(image, reference, folder)
        compare_all(image)


@test
def images_of_ours(folder):
    """images that we create are sound, take qemu-io's writes, and qemu-img shows what was asked for"""
    variants = [[], ["--compat", "0.10"], ["--qcow2-version", "2"], ["--lazy-refcounts"], ["--extended-l2"],
                ["--extended-l2", "--cluster-size", "16K"], ["--compression-type", "zstd"]]
    variants += [["--cluster-size", size] for size in ("512", "4K", "64k", "2M")]
    variants += [["--refcount-bits", str(1 << order)] for order in range(7)]
    for options in variants:
        image = folder / "image.qcow2"
        disk("create", "--force", image, "24M", *options)
        sound(image)
        has_zeros = options not in (["--compat", "0.10"], ["--qcow2-version", "2"])
        fill(image, str(options), 24 * M, has_zeros=has_zeros)
        sound(image)
        read_back(image, None, folder)
        compare_all(image)
        data = json.loads(qemu("info", "--output=json", image).stdout)
        specific = data["format-specific"]["data"]
        assert (specific["compat"] == "0.10") == (not has_zeros)
        for word, key, value in (("--lazy-refcounts", "lazy-refcounts", True), ("--extended-l2", "extended-l2", True),
                                 ("zstd", "compression-type", "zstd")):
            assert word not in options or specific[key] == value, f"{options}: {specific}"
        if "--refcount-bits" in options:
            same(int(options[1]), specific["refcount-bits"], "refcount bits")


@test
def creation_is_careful(folder):
    """create refuses what cannot be, rounds sizes up to sectors, and replaces nothing unasked"""
    image = folder / "image.qcow2"
    disk("create", image, "1000")
    same(1024, json.loads(qemu("info", "--output=json", image).stdout)["virtual-size"], "rounded size")
    refused("create", image, "1M", text="exists already")
    refused("create", folder / "none" / "image", "1M", text="cannot create")
    refused("create", folder / "x", "1M", "--cluster-size", "100", text="the cluster size is 100")
    refused("create", folder / "x", "1M", "--cluster-size", "4M", text="the cluster size")
    refused("create", folder / "x", "1M", "--refcount-bits", "3", text="the refcount width is 3")
    refused("create", folder / "x", "1M", "--qcow2-version", "4", text="the qcow2 version is 4")
    refused("create", folder / "x", "1M", "--qcow2-version", "2", "--lazy-refcounts", text="the qcow2 version is 2")
    refused("create", folder / "x", "1024T", "--cluster-size", "512", text="the disk's size")
    refused("create", "--base", "missing", folder / "x", text="missing")
    refused("create", "--base", "../../etc/passwd", folder / "x", text="../../etc/passwd")
    refused("create", "--base", "nbd://host/x", folder / "x", text="only files can be backing files")
    refused("create", "--force", "--base", "image.qcow2", image, text="the image itself")
    disk("create", folder / "x", "1", "--size", status=USAGE)
    disk("create", folder / "x", status=USAGE)
    disk("create", "--format", "raw", folder / "disk.raw", "1.5M")
    same(1536 * K, (folder / "disk.raw").stat().st_size, "size of a raw image")
    same(["disk.raw", "image.qcow2"], sorted(os.listdir(folder)), "files that are left")


@test
def chains(folder):
    """chains of three with a raw base, shorter than what is above, are read, mapped and shown as qemu-img does"""
    raw = folder / "base.raw"
    raw_with_data(raw, 5 * M, 3)
    (folder / "below").mkdir()
    os.rename(raw, folder / "below" / "base.raw")
    qemu("create", "-f", "qcow2", "-b", "below/base.raw", "-F", "raw", folder / "middle.qcow2", "8M")
    fill(folder / "middle.qcow2", 4, 8 * M)
    top = folder / "top.qcow2"
    disk("create", "--base", "middle.qcow2", top, "12M")
    fill(top, 5, 12 * M)
    reference = folder / "reference.raw"
    qemu("convert", "-O", "raw", top, reference)
    read_back(top, reference, folder)
    compare_all(top)
    ours = json.loads(disk("info", "--json", "--chain", top).stdout)
    theirs = json.loads(qemu("info", "--output=json", "--backing-chain", top).stdout)
    same(len(ours), len(theirs), "images of the chain")
    for one, other in zip(ours, theirs):
        same_common(one, other, "info --chain", ignored={"children"})
    os.chdir(folder)
    read_back("top.qcow2", reference, folder)
    compare_map("top.qcow2")
    compare_info("top.qcow2")
    disk("create", "small.qcow2", "--base", "top.qcow2", "1M")
    sound("small.qcow2")
    compare_map("small.qcow2")


@test
def old_overlays(folder):
    """overlays of version 2, which cannot store zeros, and with subclusters are read as qemu-img does"""
    raw_with_data(folder / "base.raw", 8 * M, 8)
    for options in ("compat=0.10", "extended_l2=on", "cluster_size=512"):
        qemu("create", "-f", "qcow2", "-o", options, "-b", "base.raw", "-F", "raw", folder / "top.qcow2")
        fill(folder / "top.qcow2", options, 8 * M, has_zeros=options != "compat=0.10")
        qemu("convert", "-O", "raw", folder / "top.qcow2", folder / "reference.raw")
        read_back(folder / "top.qcow2", folder / "reference.raw", folder)
        compare_all(folder / "top.qcow2")


@test
def backing_places(folder):
    """backing files outside of the image's folder are refused unless that is allowed"""
    inner = folder / "inner"
    inner.mkdir()
    qemu("create", "-f", "raw", folder / "base.raw", "1M")
    image = inner / "top.qcow2"
    refused("create", "--base", "../base.raw", image, text="outside of the image's folder")
    disk("create", "--base", "../base.raw", "--backing", "any", image)
    sound(image)
    same("../base.raw", json.loads(qemu("info", "--output=json", image).stdout)["backing-filename"], "backing file")
    for command in (("map",), ("info", "--chain"), ("resize", "--shrink")):
        words = [*command, image] + (["512K"] if command[0] == "resize" else [])
        refused(*words, text="outside of the image's folder")
        disk(*words, "--backing", "any")
    refused("convert", image, folder / "x", text="outside of the image's folder")
    refused("commit", image, text="outside of the image's folder")
    (inner / "link").symlink_to("../base.raw")
    refused("create", "--base", "link", inner / "x", text="outside of the image's folder")
    disk("info", image)


@test
def snapshots(folder):
    """internal snapshots are shown as qemu-img does and can be converted"""
    for options in ("compat=1.1", "compat=0.10", "cluster_size=512", "extended_l2=on"):
        image = sample(folder, options=options)
        qemu("convert", "-O", "raw", image, folder / "first.raw")
        qemu("snapshot", "-c", "first", image)
        qemu_io(image, "write -P 99 512k 2M")
        qemu("convert", "-O", "raw", image, folder / "second.raw")
        qemu("snapshot", "-c", "the second", image)
        qemu_io(image, "write -P 100 0 4M")
        compare_all(image)
        disk("check", image)
        for name, reference in (("first", "first.raw"), ("1", "first.raw"), ("the second", "second.raw")):
            disk("convert", "--snapshot", name, "--format", "raw", "--force", image, folder / "ours.raw")
            compare_bytes(folder / "ours.raw", folder / reference)
        refused("convert", "--snapshot", "third", image, folder / "x", text="'third'")
        text = disk("info", image).stdout
        assert "Snapshot list:" in text and "the second" in text, text


@test
def conversion(folder):
    """what we convert is sound and identical, compressed or not, in every kind of cluster"""
    raw = folder / "source.raw"
    raw_with_data(raw, 24 * M, 6)
    image = folder / "image.qcow2"
    for version in ([], ["--qcow2-version", "2"]):
        for size in ("512", "4K", "64K", "2M"):
            for compression in ([], ["--compress"], ["--compress", "--compression-type", "zstd"]):
                if version and "zstd" in compression:
                    continue
                disk("convert", "--force", raw, image, "--cluster-size", size, *compression, *version)
                sound(image)
                qemu("compare", raw, image)
                compare_all(image)
                read_back(image, raw, folder)
                fill(image, size, 24 * M, has_zeros=False)
                sound(image)
    disk("convert", "--force", raw, image, "--compress")
    qemu("convert", "-c", "-O", "qcow2", raw, folder / "theirs.qcow2")
    ours, theirs = (path.stat().st_size for path in (image, folder / "theirs.qcow2"))
    assert ours <= theirs * 1.1, f"our compressed image has {ours} bytes, qemu-img's {theirs}"


@test
def conversion_is_careful(folder):
    """convert replaces nothing unasked, leaves no pieces, and takes raw files of any length"""
    odd = folder / "odd.raw"
    odd.write_bytes(random.Random(1).randbytes(70_001))
    disk("convert", odd, folder / "image.qcow2")
    sound(folder / "image.qcow2")
    qemu("compare", "-f", "raw", odd, folder / "image.qcow2")
    refused("convert", odd, folder / "image.qcow2", text="exists already")
    refused("convert", folder / "none", folder / "x", text="none")
    disk("convert", "--force", folder / "image.qcow2", folder / "image.qcow2", "--compress")
    sound(folder / "image.qcow2")
    qemu("compare", "-f", "raw", odd, folder / "image.qcow2")
    disk("convert", "--format", "raw", "--compress", odd, folder / "x", status=USAGE)
    disk("convert", "--force", "--progress", odd, folder / "image.qcow2")
    compare_map(odd)
    empty = folder / "empty.raw"
    empty.write_bytes(b"")
    disk("convert", empty, folder / "empty.qcow2")
    sound(folder / "empty.qcow2")
    assert not [name for name in os.listdir(folder) if name.endswith(".part")], os.listdir(folder)


@test
def conversion_to_overlays(folder):
    """convert --base stores only what differs, and the result is the source"""
    base = folder / "base.raw"
    raw_with_data(base, 16 * M, 10)
    for version in ("2", "3"):
        for size in (12 * M, 16 * M, 20 * M):
            changed = folder / "changed.raw"
            run("cp", "--sparse=always", base, changed)
            os.truncate(changed, size)
            qemu_io(changed, "write -P 7 3M 128k", "write -z 1M 2M", extra=("-f", "raw"))
            for options in ([], ["--compress"]):
                image = folder / "image.qcow2"
                disk("convert", "--force", "--base", "base.raw", "--qcow2-version", version, *options, changed, image)
                sound(image)
                qemu("compare", "-f", "raw", changed, image)
                compare_all(image)
                if version == "3":
                    assert image.stat().st_size < M, "the overlay stores what its base has"


@test
def commits(folder):
    """commit gives the base the overlay's bytes, as large as it, and leaves the overlay empty"""
    for base_format in ("raw", "qcow2"):
        for options in ("compat=1.1", "compat=0.10", "extended_l2=on", "cluster_size=512", "lazy_refcounts=on"):
            raw_with_data(folder / "source.raw", 8 * M, 11)
            base = folder / "base.img"
            qemu("convert", "-f", "raw", "-O", base_format, folder / "source.raw", base)
            top = folder / "top.qcow2"
            qemu("create", "-f", "qcow2", "-o", options, "-b", "base.img", "-F", base_format, top, "10M")
            fill(top, options, 10 * M, has_zeros=options != "compat=0.10")
            qemu("convert", "-O", "raw", top, folder / "reference.raw")
            disk("commit", top)
            sound(top)
            qemu("compare", "-f", base_format, "-F", "raw", base, folder / "reference.raw")
            qemu("compare", top, folder / "reference.raw")
            if base_format == "qcow2":
                sound(base)
            mapped = json.loads(qemu("map", "--output=json", top).stdout)
            assert all(entry["depth"] == 1 or not entry["present"] for entry in mapped), mapped
            fill(top, 12, 10 * M, has_zeros=options != "compat=0.10")
            sound(top)


@test
def commits_in_a_chain(folder):
    """commit writes into the image right below, and what lies below that stays"""
    raw_with_data(folder / "base.raw", 8 * M, 13)
    before = (folder / "base.raw").read_bytes()
    qemu("create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", folder / "middle.qcow2")
    qemu("create", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", folder / "top.qcow2")
    fill(folder / "middle.qcow2", 14, 8 * M)
    fill(folder / "top.qcow2", 15, 8 * M)
    qemu("snapshot", "-c", "kept", folder / "top.qcow2")
    qemu_io(folder / "top.qcow2", "write -P 1 0 2M")
    qemu("convert", "-O", "raw", folder / "top.qcow2", folder / "reference.raw")
    disk("commit", folder / "top.qcow2")
    for name in ("middle.qcow2", "top.qcow2"):
        sound(folder / name)
        qemu("compare", folder / name, folder / "reference.raw")
    assert (folder / "base.raw").read_bytes() == before, "commit changed the image two below"
    refused("commit", folder / "base.raw", text="the backing file of")


@test
def locks(folder):
    """images that QEMU has open are not changed, nor read while it writes"""
    base, top = folder / "base.qcow2", folder / "top.qcow2"
    disk("create", base, "4M")
    disk("create", "--base", "base.qcow2", top)

    def held(image, *options):
        process = subprocess.Popen(["qemu-io", *options, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write(b"read 0 512\n")
        process.stdin.flush()
        process.stdout.readline()
        return process

    process = held(top)
    for words in (("resize", top, "8M"), ("commit", top), ("check", "--repair", "all", top), ("info", top),
                  ("resize", base, "8M")):
        refused(*words, text="in use")
    process.communicate()
    process = held(base, "-r")
    refused("commit", top, text="in use")
    disk("info", base)
    process.communicate()
    disk("commit", top)


@test
def resizing(folder):
    """resize grows with zeros and shrinks when asked to; what was cut off never comes back"""
    for name, options in VARIANTS.items():
        image = folder / "image.qcow2"
        qemu("create", "-f", "qcow2", "-o", options, image, "5M")
        qemu_io(image, "write -P 17 0 5M")
        refused("resize", image, "4M", text="--shrink")
        disk("resize", image, "+3M")
        sound(image)
        qemu_io(image, "read -P 17 0 5M", "read -P 0 5M 3M", "write -P 18 5M 3M")
        disk("resize", "--shrink", image, "--", "-6656K")
        sound(image)
        disk("resize", image, "40M")
        sound(image)
        compare_all(image)
        qemu_io(image, "read -P 17 0 1536k", "read -P 0 1536k 39424k", "write -P 1 30M 10M")
        sound(image)
        qemu_io(image, "read -P 17 0 1536k", "read -P 1 30M 10M")
    raw = folder / "disk.raw"
    raw.write_bytes(b"x" * 1000)
    disk("resize", raw, "+1M")
    same(1 * M + 1024, raw.stat().st_size, "size of a raw image")
    refused("resize", raw, "--shrink", "--", "-2M", text="the change of the disk's size")


@test
def resizing_overlays(folder):
    """a grown overlay shows zeros, not what its base has there"""
    qemu("create", "-f", "raw", folder / "base.raw", "8M")
    qemu_io(folder / "base.raw", "write -P 5 0 8M", extra=("-f", "raw"))
    for options in ("compat=1.1", "compat=0.10", "extended_l2=on"):
        image = folder / "image.qcow2"
        qemu("create", "-f", "qcow2", "-o", options, "-b", "base.raw", "-F", "raw", image, "2M")
        disk("resize", image, "9M")
        sound(image)
        qemu_io(image, "read -P 5 0 2M", "read -P 0 2M 7M", "write -P 6 0 6M")
        disk("resize", "--shrink", image, "1000K")
        disk("resize", image, "9M")
        sound(image)
        qemu_io(image, "read -P 6 0 1000k", f"read -P 0 1000k {9 * M - 1000 * K}")


@test
def resizing_with_snapshots(folder):
    """an image with internal snapshots grows, and its snapshots stay as they were"""
    image = sample(folder)
    qemu("convert", "-O", "raw", image, folder / "first.raw")
    qemu("snapshot", "-c", "first", image)
    disk("resize", image, "2G")
    sound(image)
    disk("convert", "--snapshot", "first", "--format", "raw", image, folder / "ours.raw")
    compare_bytes(folder / "ours.raw", folder / "first.raw")
    refused("resize", "--shrink", image, "1M", text="snapshots")


@test
def damage_is_found(folder):
    """check counts what qemu-img check counts, and repairs it so that qemu-img finds nothing and no byte is lost"""

    def refcount(image, cluster, value):
        poke(image, first_block(image) + cluster * 2, "H", value)

    def l2(image, entry, change):
        place = first_l2(image) + entry * 8
        poke(image, place, "Q", change(peek(image, place, "Q")))

    damages = {
        "a leak": (LEAKING, lambda image: refcount(image, 40, 1)),
        "leaks": (LEAKING, lambda image: [refcount(image, number, 3) for number in (8, 9, 10)]
                  and [l2(image, entry, lambda old: old & ~(1 << 63)) for entry in (3, 4, 5)]),
        "a refcount of zero": (DAMAGED, lambda image: refcount(image, 8, 0)),
        "both": (DAMAGED, lambda image: [refcount(image, 8, 0), refcount(image, 40, 1)]),
        "no refcounts at all": (DAMAGED, lambda image: poke(image, first_block(image), "512Q", *([0] * 512))),
        "no refcount table": (DAMAGED, lambda image: poke(image, header(image)["refcount_offset"], "Q", 0)),
        "a COPIED flag missing": (DAMAGED, lambda image: l2(image, 3, lambda old: old & ~(1 << 63))),
        "a cluster used twice": (DAMAGED, lambda image: l2(image, 3, lambda old: peek(image, first_l2(image), "Q"))),
    }
    for lazy in ("off", "on"):
        for name, (status, damage) in damages.items():
            try:
                image = sample(folder, options=f"lazy_refcounts={lazy}")
                qemu_io(image, "write -P 55 3M 64k")
                damage(image)
                # A file as long as what leaks, for both to see it.
                os.truncate(image, max(image.stat().st_size, 48 * 64 * K))
                qemu("convert", "-O", "raw", image, folder / "reference.raw")
                ours = disk("check", "--json", image, status=(LEAKING, DAMAGED))
                theirs = qemu("check", "--output=json", image, status=(LEAKING, DAMAGED))
                same(ours.returncode, theirs.returncode, "status")
                for key in ("leaks", "corruptions", "allocated-clusters", "total-clusters", "fragmented-clusters"):
                    same(json.loads(ours.stdout).get(key), json.loads(theirs.stdout).get(key), key)
                if status == LEAKING:
                    disk("check", "--repair", "leaks", image)
                    sound(image)
                done = disk("check", "--repair", "all", image)
                assert status == LEAKING or "found and repaired" in done.stdout, done.stdout
                sound(image)
                disk("check", image)
                qemu("compare", image, folder / "reference.raw")
                if name != "a cluster used twice":  # of which QEMU leaves one without its flag
                    fill(image, name, 4 * M)
                    sound(image)
            except AssertionError as error:
                raise AssertionError(f"{name}, lazy refcounts {lazy}: {error}") from error


@test
def refcounts_are_rebuilt(folder):
    """check --repair all makes refcounts anew where their blocks are lost, and refuses what it cannot know"""
    for options in ("compat=1.1", "cluster_size=512", "refcount_bits=1", "refcount_bits=64", "extended_l2=on"):
        places = {
            "an L2 table": first_l2, "data": lambda image: peek(image, first_l2(image), "Q") & 0x00FFFFFFFFFFFE00,
            "outside": lambda image: 1 << 40, "misaligned": lambda image: first_block(image) + 8,
            "nowhere": lambda image: 0, "the header": lambda image: 0x0,
        }
        for name, place in places.items():
            image = sample(folder, options=options)
            qemu("convert", "-O", "raw", image, folder / "reference.raw")
            poke(image, header(image)["refcount_offset"], "Q", place(image))
            disk("check", image, status=DAMAGED)
            disk("check", "--repair", "all", image)
            sound(image)
            qemu("compare", image, folder / "reference.raw")
            fill(image, name, 4 * M)
            sound(image)
    for field in ("refcount_offset", "l1_offset"):
        image = sample(folder)
        poke(image, header(image)["l1_offset"], "Q", header(image)[field] | 1 << 63)
        before = image.read_bytes()
        refused("check", "--repair", "all", image, text="cannot be repaired")
        assert image.read_bytes() == before, "a repair that was refused changed the image"


@test
def repairs_of_leaks_only(folder):
    """check --repair leaks leaves corruption alone and says so"""
    image = sample(folder)
    poke(image, first_block(image) + 40 * 2, "H", 1)
    poke(image, first_block(image) + 8 * 2, "H", 0)
    os.truncate(image, 48 * 64 * K)
    done = disk("check", "--repair", "leaks", "--json", image, status=DAMAGED)
    told = json.loads(done.stdout)
    same((1, None), (told["leaks-fixed"], told.get("leaks")), "leaks that were fixed and are left")
    assert told["corruptions"] >= 1, told
    refused("check", folder / "none", text="none")
    (folder / "disk.raw").write_bytes(bytes(4096))
    refused("check", folder / "disk.raw", text="raw")


@test
def marks(folder):
    """images marked as dirty or corrupt are shown so, checked, and repaired"""
    image = sample(folder, options="lazy_refcounts=on")
    qemu("convert", "-O", "raw", image, folder / "reference.raw")
    poke(image, 72, "Q", 1)
    poke(image, first_block(image) + 8 * 2, "H", 0)
    compare_info(image)
    assert json.loads(disk("info", "--json", image).stdout)["dirty-flag"] is True
    read_back(image, folder / "reference.raw", folder)
    disk("check", image, status=DAMAGED)
    disk("check", "--repair", "all", image)
    sound(image)
    same(0, header(image)["incompatible"], "incompatible features")
    poke(image, 72, "Q", 1)
    poke(image, first_block(image) + 8 * 2, "H", 0)
    disk("resize", image, "5M")
    sound(image)

    image = sample(folder)
    poke(image, 72, "Q", 2)
    compare_info(image)
    read_back(image, folder / "reference.raw", folder)
    refused("resize", image, "8M", text="marked as such")
    disk("check", "--repair", "all", image)
    same(0, header(image)["incompatible"], "incompatible features")
    sound(image)


@test
def unsupported_features(folder):
    """what we cannot read is refused by name"""
    qemu("create", "-f", "qcow2", "-o", f"data_file={folder}/data.raw", folder / "data.qcow2", "1M")
    refused("info", folder / "data.qcow2", text="an external data file")
    # qemu-img measures how long keys take, and gives up where the host's clock for that has not moved on meanwhile.
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    for _ in range(20):
        created = qemu("create", "--object", "secret,id=s,data=x", "-f", "qcow2", "-o", options,
                       folder / "secret.qcow2", "1M", status=(OK, FAILED))
        if created.returncode == OK:
            break
    refused("info", folder / "secret.qcow2", text="encryption")
    image = sample(folder)
    poke(image, 72, "Q", 1 << 40)
    refused("info", image, text="the incompatible feature bit 40")
    refused("check", image, text="the incompatible feature bit 40")
    image = sample(folder)
    # The first name in the table of features, which qemu-img writes.
    data = image.read_bytes()
    place = data.index(b"dirty bit") - 2
    poke(image, place + 1, "B", 33)
    poke(image, 72, "Q", 1 << 33)
    refused("map", image, text="'dirty bit' (bit 33)")
    poke(image, 4, "I", 4)
    refused("info", image, text="qcow2 version 4")


@test
def hostile_images(folder):
    """images made to do harm are refused at once, with a reason"""

    def attack(change, text, commands=("map", "convert", "resize"), options="compat=1.1"):
        image = sample(folder, "hostile.qcow2", options=options)
        change(image)
        for command in commands:
            words = {"convert": ["convert", image, folder / "out"], "resize": ["resize", image, "9M"]}
            refused(*words.get(command, [command, image]), text=text)

    every = ("info", "map", "convert", "resize", "check")
    attack(lambda image: poke(image, 40, "Q", 1 << 40), "L1 table", every)
    attack(lambda image: poke(image, 40, "Q", 0x30001), "L1 table", every)
    attack(lambda image: poke(image, 36, "I", 0xFFFFFFFF), "L1 table", every)
    attack(lambda image: poke(image, 36, "I", 0), "L1 table", every)
    attack(lambda image: poke(image, 48, "Q", 1 << 55), "refcount table", every)
    attack(lambda image: poke(image, 56, "I", 0x7FFFFFFF), "refcount table", every)
    attack(lambda image: poke(image, 24, "Q", 1 << 62), "virtual size", every)
    attack(lambda image: poke(image, 24, "Q", 1 << 60), "L1 table", every)
    attack(lambda image: poke(image, 20, "I", 63), "clusters", every)
    attack(lambda image: poke(image, 20, "I", 8), "clusters", every)
    attack(lambda image: poke(image, 96, "I", 7), "refcounts", every)
    attack(lambda image: poke(image, 60, "I", 0xFFFFFFFF), "snapshots", every)
    attack(lambda image: poke(image, 60, "IQ", 60000, 0), "snapshot", ("info", "check", "resize"))
    attack(lambda image: poke(image, 100, "I", 0xFFFFFFF8), "header length", every)
    attack(lambda image: poke(image, 8, "QI", 1 << 40, 100), "backing file's name", every)
    attack(lambda image: poke(image, 8, "QI", 512, 5000), "backing file's name", every)
    attack(lambda image: os.truncate(image, 80), "ends inside its header", every)
    attack(lambda image: os.truncate(image, 70), "fewer than a qcow2 header", every)
    attack(lambda image: os.truncate(image, 3 * 64 * K), "L1 table", every)

    def overlap(image):
        poke(image, header(image)["l1_offset"], "Q", header(image)["refcount_offset"] | 1 << 63)

    attack(overlap, "overlaps")
    attack(lambda image: poke(image, header(image)["l1_offset"], "Q", 1 << 50), "behind the file's end")
    attack(lambda image: poke(image, header(image)["refcount_offset"], "Q", 0x30000), "overlaps")
    attack(lambda image: poke(image, header(image)["refcount_offset"], "Q", 0), "has no references", ("resize",))
    attack(lambda image: poke(image, first_l2(image), "Q", 0x12345600 | 1 << 63), "misaligned", ("map", "convert"))
    attack(lambda image: poke(image, first_l2(image), "Q", 1 << 62 | 1 << 53), "compressed", ("convert",))
    attack(lambda image: poke(image, first_l2(image) + 8, "Q", (1 << 64) - 1), "contradict", ("map", "convert"),
           "extended_l2=on")

    image = sample(folder, "damaged.qcow2")
    overlap(image)
    disk("check", image, status=DAMAGED, fast=True)
    disk("info", image)
    disk("check", "--repair", "all", image, status=(FAILED, DAMAGED), fast=True)
    assert first_l2(image) == header(image)["refcount_offset"], "the repair changed what it does not understand"


@test
def hostile_names(folder):
    """backing files that are no files beside the image are refused, and loops of them"""
    (folder / "base").write_bytes(bytes(M))
    for name in ("../../etc/passwd", "/etc/passwd", "nbd://host/x", "json:{}", "nbd:host:1", "/dev/zero", "", "a\0b", "."):
        image = folder / "hostile.qcow2"
        disk("create", "--force", "--base", "base", image)
        place = peek(image, 8, "Q")
        encoded = name.encode()
        with open(image, "r+b") as file:
            file.seek(place)
            file.write(encoded)
        poke(image, 16, "I", len(encoded))
        refused("map", image, text="backing file")
        refused("convert", image, folder / "out", text="backing file")
        refused("commit", image, text="backing file")
    for names in (["loop.qcow2"], ["other.qcow2", "loop.qcow2"]):
        qemu("create", "-f", "qcow2", folder / "loop.qcow2", "1M")
        qemu("create", "-f", "qcow2", folder / "other.qcow2", "1M")
        for image, name in zip(("loop.qcow2", "other.qcow2"), names):
            qemu("rebase", "-u", "-b", name, "-F", "qcow2", folder / image)
        refused("map", folder / "loop.qcow2", text="in the chain already")
        refused("convert", folder / "loop.qcow2", folder / "out", text="in the chain already")
        refused("commit", folder / "loop.qcow2", text="")
    qemu("rebase", "-u", "-b", "base", "-F", "vmdk", folder / "loop.qcow2")
    refused("map", folder / "loop.qcow2", text="its format is 'vmdk'")


@test
def noise(folder):
    """images with random damage to their tables never crash a command nor keep it for long"""
    chance = random.Random(77)
    image = folder / "noise.qcow2"
    qemu("create", "-f", "qcow2", "-o", "cluster_size=4k", image, "8M")
    fill(image, 78, 8 * M)
    qemu("snapshot", "-c", "s", image)
    clean = image.read_bytes()
    tables = [0, header(image)["l1_offset"], first_l2(image), first_block(image), header(image)["refcount_offset"],
              header(image)["snapshot_offset"]]
    for _ in range(60):
        data = bytearray(clean)
        for _ in range(chance.randrange(1, 5)):
            place = chance.choice(tables) + chance.randrange(0, chance.choice([8, 104, 512]))
            data[place % len(data)] = chance.choice([0, 1, 0x80, 0xFF, chance.randrange(256)])
        image.write_bytes(data)
        for words in (["info", image], ["map", "--json", image], ["check", image],
                      ["convert", "--force", "--format", "raw", image, folder / "out"],
                      ["check", "--repair", "all", image], ["resize", image, "9M"]):
            disk(*words, status=(OK, FAILED, DAMAGED, LEAKING), fast=True)


@test
def text_for_people(folder):
    """info tells people what qemu-img tells them"""
    image = sample(folder)
    os.rename(image, folder / "base.qcow2")
    disk("create", folder / "top.qcow2", "--base", "base.qcow2")
    ours = disk("info", folder / "top.qcow2").stdout
    theirs = qemu("info", folder / "top.qcow2").stdout
    same(ours.splitlines(), theirs.splitlines(), "info")
    lines = disk("map", folder / "top.qcow2").stdout.splitlines()
    theirs = qemu("map", folder / "top.qcow2").stdout.splitlines()
    same([line.split() for line in lines], [line.split() for line in theirs], "map")


def main():
    global SMOLVMM
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--smolvmm", default=root / ".build/release/smolvmm", type=pathlib.Path)
    parser.add_argument("names", nargs="*", help="only these tests")
    arguments = parser.parse_args()
    SMOLVMM = arguments.smolvmm.resolve()
    start = os.getcwd()
    failed = 0
    for function in TESTS:
        if arguments.names and function.__name__ not in arguments.names:
            continue
        with tempfile.TemporaryDirectory(prefix="smolvmm-disk-") as folder:
            try:
                function(pathlib.Path(folder))
                print(f"ok   {function.__doc__}", flush=True)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"FAIL {function.__doc__} ({function.__name__})\n{error}", flush=True)
            except Exception:
                failed += 1
                print(f"FAIL {function.__doc__} ({function.__name__})", flush=True)
                traceback.print_exc(file=sys.stdout)
            finally:
                os.chdir(start)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
