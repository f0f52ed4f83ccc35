"""Several read-only directories under the private one, as the layers of an image."""

from harness import case, equal


@case()
def layers_are_put_on_each_other_and_kept_ones_go_below_new_ones(t):
    """What a run kept is a layer of the next: what it deleted, replaced and moved stays so over the same base."""
    base = t.dir.parent / (t.dir.name + ".base")
    for path, text in (("base/etc/passwd", "root:x:0:0::/:/bin/sh\n"), ("base/d/one", "1\n"), ("base/d/two", "2\n"), ("base/moved/deep/file", "f\n"), ("patch/d/two", "patched\n")):
        file = base / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (base / "base/bin").mkdir()
    t.sh(f"cp /bin/busybox /srv/; chmod 755 /srv/busybox; cp /srv/busybox {base}/base/bin/; for a in sh ls cat rm mkdir mv stat chown; do ln -s busybox {base}/base/bin/$a; done", ["--rw", base]).ok()
    show = "ls / /d; cat /d/*"
    under = ["--root", base / "patch", "--lower", base / "base"]
    r = t.sh(f"{show}; rm /d/one; mv /moved /away; rm /away/deep/file; echo new > /away/deep/new; chown 5:6 /d/two", ["--keep", base / "kept", *under], shell="/bin/sh").ok()
    equal(r.out.split(), "/: bin d dev etc moved proc sys /d: one two 1 patched".split(), r.describe())
    r = t.sh(f"{show}; ls /away/deep; stat -c %u:%g /d/two; echo over > /d/two; cat /d/two", ["--root", base / "kept/root", "--lower", base / "patch", "--lower", base / "base"], shell="/bin/sh").ok()
    equal(r.out.split(), "/: away bin d dev etc proc sys /d: two patched new 5:6 over".split(), r.describe())
    equal((base / "patch/d/two").read_text(), "patched\n")
