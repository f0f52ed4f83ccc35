/* oracle: user
 * Copies inside the kernel: sendfile, copy_file_range, splice, tee; vectors; big transfers. */
#include "oracle.h"
#include <sys/sendfile.h>
#include <sys/uio.h>

int main(void)
{
	char b[64];
	put_file("a", "0123456789abcdef", 0644);
	int a = M(open("a", O_RDONLY)), o = M(open("o", O_CREAT | O_RDWR, 0644));
	off_t off = 3;
	T(sendfile(o, a, &off, 5));
	T(off);
	T(sendfile(o, a, NULL, 4));
	T(lseek(a, 0, SEEK_CUR));
	print_file("o");
	T(sendfile(o, a, NULL, 1000));
	T(sendfile(o, a, NULL, 1000));
	T(sendfile(a, o, NULL, 1));
	loff_t in = 0, out = 20;
	T(copy_file_range(a, &in, o, &out, 8, 0));
	T(out);
	T(copy_file_range(a, NULL, o, NULL, 8, 1));
	T(copy_file_range(a, &in, a, &in, 8, 0));
	int dev = M(open("/dev/null", O_RDWR));
	T(sendfile(dev, a, &off, 4));
	int p[2], q[2];
	M(pipe(p));
	M(pipe(q));
	in = 0;
	T(splice(a, &in, p[1], NULL, 6, 0));
	T(tee(p[0], q[1], 6, 0));
	T(read(p[0], b, 64));
	T(read(q[0], b, 64));
	printf("%.6s\n", b);
	struct iovec v[2] = { { "one", 3 }, { "two", 3 } }, r[3] = { { b, 2 }, { b + 10, 2 }, { b + 20, 10 } };
	T(writev(p[1], v, 2));
	T(readv(p[0], r, 3));
	printf("%.2s %.2s %.2s\n", b, b + 10, b + 20);
	T(vmsplice(p[1], v, 1, 0));
	T(pwritev(o, v, 2, 0));
	T(preadv(o, r, 3, 1));
	T(writev(o, v, -1));
	T(writev(o, v, 2000));
	T(pread(o, b, 5, -1));
	T(pwrite(p[1], b, 1, 0));
	T(lseek(p[0], 0, SEEK_SET));
	/* Eight megabytes through a pipe keep their order. */
	int big[2], bad = 0;
	M(pipe(big));
	pid_t w = fork();
	if (w == 0) {
		unsigned buf[4096];
		unsigned n = 0;
		close(big[0]);
		for (int i = 0; i < 512; i++) {
			for (int j = 0; j < 4096; j++) buf[j] = n++;
			if (write(big[1], buf, sizeof buf) != sizeof buf) _exit(1);
		}
		_exit(0);
	}
	close(big[1]);
	unsigned want = 0, buf[1000];
	size_t have = 0;
	long got, total = 0;
	while ((got = read(big[0], (char *)buf + have, sizeof buf - have)) > 0) {
		total += got;
		have += got;
		for (size_t i = 0; i < have / 4; i++)
			if (buf[i] != want++) bad++;
		memmove(buf, (char *)buf + have / 4 * 4, have % 4);
		have %= 4;
	}
	printf("total %ld bad %d\n", total, bad);
	reap("writer", w);
	/* Limits of the file size. */
	CHILD("RLIMIT_FSIZE", {
		struct rlimit l = { 100, 100 };
		setrlimit(RLIMIT_FSIZE, &l);
		signal(SIGXFSZ, SIG_IGN);
		int f = M(open("lim", O_CREAT | O_RDWR, 0600));
		char big2[200] = "";
		T(write(f, big2, 200));
		T(write(f, big2, 1));
		T(ftruncate(f, 500));
	});
	CHILD("SIGXFSZ", { struct rlimit l = { 10, 10 }; setrlimit(RLIMIT_FSIZE, &l); l.rlim_cur = l.rlim_max = 0; setrlimit(RLIMIT_CORE, &l); int f = M(open("lim2", O_CREAT | O_RDWR, 0600)); T(write(f, b, 10)); T(write(f, b, 1)); });
	return 0;
}
