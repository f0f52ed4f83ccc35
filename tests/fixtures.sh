#!/bin/bash
# Prepares what the end-to-end suite needs from the network, once: a few Debian packages, the source of one, a package
# repository made of them, a machine for QEMU, and a Rust toolchain an ordinary user can read.
#
#   tests/fixtures.sh DIR [OWNER]
set -euo pipefail
dir=${1:?usage: fixtures.sh DIR [OWNER]}
owner=${2:-$(id -un)}
mkdir -p "$dir/debs" "$dir/source"

# Downloads are kept in a private apt state, so that the machine's own package lists stay as they are.
apt_private() {
	mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
	[ -e "$dir/apt/sources.list" ] || {
		. /etc/os-release
		echo "deb http://deb.debian.org/debian $VERSION_CODENAME main"
		echo "deb-src http://deb.debian.org/debian $VERSION_CODENAME main"
	} >"$dir/apt/sources.list"
	apt-get -qq -o Dir::Etc::sourcelist="$dir/apt/sources.list" -o Dir::Etc::sourceparts=- \
		-o Dir::State::lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache" -o APT::Sandbox::User= "$@"
}

if [ ! -e "$dir/complete" ]; then
	apt_private update
	# hello: no scripts. ed: update-alternatives in its scripts.
	(cd "$dir/debs" && apt_private download hello ed)
	(cd "$dir/source" && apt_private source --download-only hello)

	# A package of our own whose scripts leave traces that only a working root can leave.
	p=$(mktemp -d)
	mkdir -p "$p/DEBIAN" "$p/usr/bin" "$p/etc"
	cat >"$p/DEBIAN/control" <<-END
		Package: nomina-sample
		Version: 1.0
		Architecture: all
		Maintainer: Nomina tests <tests@example.org>
		Depends: hello
		Description: shows that maintainer scripts run
	END
	cat >"$p/DEBIAN/preinst" <<-'END'
		#!/bin/sh -e
		echo "preinst $1" >>/var/log/nomina-sample
	END
	cat >"$p/DEBIAN/postinst" <<-'END'
		#!/bin/sh -e
		useradd --system --no-create-home nomina-sample
		mkdir -p /var/lib/nomina-sample
		echo "postinst $1" >>/var/log/nomina-sample
		chown nomina-sample:nomina-sample /var/lib/nomina-sample
		chmod 2750 /var/lib/nomina-sample
	END
	cat >"$p/DEBIAN/prerm" <<-'END'
		#!/bin/sh -e
		echo "prerm $1" >>/var/log/nomina-sample
	END
	chmod 755 "$p"/DEBIAN/p*
	echo /etc/nomina-sample.conf >"$p/DEBIAN/conffiles"
	echo setting=1 >"$p/etc/nomina-sample.conf"
	printf '#!/bin/sh\nexec hello -g "sample runs"\n' >"$p/usr/bin/nomina-sample"
	chmod 755 "$p/usr/bin/nomina-sample"
	dpkg-deb --root-owner-group --build "$p" "$dir/debs/nomina-sample_1.0_all.deb" >/dev/null
	rm -rf "$p"
	(cd "$dir/debs" && dpkg-scanpackages . /dev/null 2>/dev/null >Packages)
	rm -rf "$dir/apt"
	touch "$dir/complete"
fi

# A mirror from which debootstrap makes a minimal bookworm, with services and a program with file capabilities.
if [ ! -e "$dir/mirror/complete" ]; then
	rm -rf "$dir/mirror" "$dir/apt-mirror"
	a=$dir/apt-mirror b=$dir/mirror/dists/bookworm
	mkdir -p "$a/lists/partial" "$a/cache/archives/partial" "$dir/mirror/pool" "$b/main/binary-amd64"
	echo "deb http://deb.debian.org/debian bookworm main" >"$a/sources.list"
	: >"$a/status"
	apt_bookworm() {
		apt-get -qq -o Dir::Etc::sourcelist="$a/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$a/lists" \
			-o Dir::Cache="$a/cache" -o Dir::State::status="$a/status" -o APT::Sandbox::User= "$@"
	}
	apt_bookworm update
	apt_bookworm -y --download-only --no-install-recommends install '?priority(required)' apt usr-is-merged \
		cron dbus nginx-light iputils-ping openssh-server libcap2-bin
	# The escaped epoch in the cache's names would be read as part of a URL.
	for f in "$a"/cache/archives/*.deb; do mv "$f" "$dir/mirror/pool/$(basename "$f" | sed 's/_[0-9]*%3a/_/')"; done
	(cd "$dir/mirror" && dpkg-scanpackages pool 2>/dev/null >dists/bookworm/main/binary-amd64/Packages)
	gzip -9nkf "$b/main/binary-amd64/Packages"
	(
		cd "$b"
		printf 'Origin: nomina\nSuite: stable\nCodename: bookworm\nArchitectures: amd64\nComponents: main\nDate: %s\nSHA256:\n' "$(date -Ru)"
		for f in main/binary-amd64/Packages main/binary-amd64/Packages.gz; do
			echo " $(sha256sum "$f" | cut -d' ' -f1) $(stat -c %s "$f") $f"
		done
	) >"$b/Release"
	rm -rf "$a"
	chmod -R a+rX "$dir/mirror"
	touch "$dir/mirror/complete"
fi

# A machine for QEMU: Debian's kernel for clouds, and an initramfs of busybox with the drivers of its network card. It takes the
# address 10.5.0.2 and serves a file over HTTP.
if [ ! -e "$dir/machine/complete" ]; then
	rm -rf "$dir/machine" && mkdir -p "$dir/machine"
	m=$(mktemp -d)
	apt_private update
	(
		cd "$m"
		kernel=$(apt-cache -o Dir::State::lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache" depends linux-image-cloud-amd64 |
			sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
		apt_private download "$kernel"
		dpkg-deb -x linux-image-*.deb x
		mkdir -p ir/bin ir/dev ir/proc ir/sys ir/www
		cp "$(command -v busybox)" ir/bin/busybox
		modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net"
		for name in $modules; do find x/lib/modules -name "$name.ko" -exec cp {} ir/ \; ; done
		cat >ir/init <<-END
			#!/bin/busybox sh
			B=/bin/busybox
			\$B mount -t proc proc /proc; \$B mount -t sysfs sysfs /sys
			for m in $modules; do [ ! -f /\$m.ko ] || \$B insmod /\$m.ko; done
			\$B sleep 1
			\$B ip link set lo up; \$B ip addr add 10.5.0.2/24 dev eth0; \$B ip link set eth0 up
			echo "hello from the machine" >/www/f
			echo the machine is up
			\$B httpd -f -p 80 -h /www
		END
		chmod 755 ir/init
		(cd ir && find . | cpio -o -H newc 2>/dev/null | gzip >"$dir/machine/initrd.gz")
		cp x/boot/vmlinuz-* "$dir/machine/vmlinuz"
	)
	rm -rf "$m" "$dir/apt"
	chmod -R a+rX "$dir/machine"
	touch "$dir/machine/complete"
fi

# The toolchain usually lies in a home directory, which the test user may not enter: link it to where it can be read.
if [ ! -x "$dir/rust/bin/cargo" ]; then
	sysroot=$(rustc --print sysroot)
	rm -rf "$dir/rust"
	mkdir -p "$dir/rust/lib"
	for part in bin lib; do
		cp -al "$sysroot/$part" "$dir/rust/" 2>/dev/null || cp -a "$sysroot/$part" "$dir/rust/"
	done
fi
chown "$owner": "$dir" "$dir"/debs "$dir"/source
