/* oracle: user
 * Named and unnamed pipes: who waits for whom, and what comes when the other side is away. */
#include "oracle.h"
#include <sys/ioctl.h>

int main(void)
{
	char b[64] = "";
	struct stat st;
	T(mkfifo("p", 0640));
	T(mkfifo("p", 0640));
	M(stat("p", &st));
	printf("fifo %d mode %o\n", S_ISFIFO(st.st_mode), st.st_mode);
	T(open("p", O_WRONLY | O_NONBLOCK));
	int r = T(open("p", O_RDONLY | O_NONBLOCK));
	T(read(r, b, 1));
	int w = T(open("p", O_WRONLY | O_NONBLOCK));
	T(read(r, b, 1));
	T(write(w, "hi", 2));
	T(read(r, b, 10));
	close(w);
	T(read(r, b, 1));
	close(r);
	/* Each side waits for the other in open. */
	pid_t c = fork();
	if (c == 0) {
		msleep(60);
		int f = M(open("p", O_WRONLY));
		M(write(f, "from child", 10));
		_exit(0);
	}
	int f = M(open("p", O_RDONLY));
	long n = read(f, b, 20);
	printf("%.*s\n", (int)n, b);
	T(read(f, b, 20));
	close(f);
	reap("writer", c);
	c = fork();
	if (c == 0) {
		msleep(60);
		int g = M(open("p", O_RDONLY));
		n = read(g, b, 20);
		printf("child got %.*s\n", (int)n, b);
		_exit(0);
	}
	f = M(open("p", O_WRONLY));
	M(write(f, "down", 4));
	close(f);
	reap("reader", c);
	f = T(open("p", O_RDWR));
	T(write(f, "self", 4));
	T(read(f, b, 4));
	close(f);
	/* Through a shell, as scripts do. */
	printf("shell: %s\n", status_text(system("(echo one; echo two) > p & sort -r < p; wait")));
	M(rename("p", "q"));
	c = fork();
	if (c == 0) {
		f = M(open("q", O_WRONLY));
		M(write(f, "renamed", 7));
		_exit(0);
	}
	f = M(open("q", O_RDONLY));
	M(unlink("q"));
	n = read(f, b, 20);
	printf("%.*s\n", (int)n, b);
	reap("writer", c);
	close(f);
	/* A fifo's second name is the same pipe. */
	M(mkfifo("h1", 0600));
	M(link("h1", "h2"));
	r = M(open("h1", O_RDONLY | O_NONBLOCK));
	w = M(open("h2", O_WRONLY | O_NONBLOCK));
	T(write(w, "x", 1));
	T(read(r, b, 1));
	close(r);
	close(w);

	int p[2];
	T(pipe2(p, O_NONBLOCK | O_CLOEXEC));
	T(fcntl(p[0], F_GETFL) & O_NONBLOCK ? 1 : 0);
	T(fcntl(p[0], F_GETFD));
	T(read(p[0], b, 1));
	char big[65536];
	memset(big, 'x', sizeof big);
	T(write(p[1], big, sizeof big));
	T(write(p[1], big, 1));
	int q = 0;
	T(ioctl(p[0], FIONREAD, &q));
	printf("%d\n", q);
	T(fcntl(p[0], F_GETPIPE_SZ));
	T(fcntl(p[0], F_SETPIPE_SZ, 131072));
	T(write(p[1], big, 5000));
	T(pipe2(p, 0x40000000));
	T(pipe((int *)8));
	snprintf(b, sizeof b, "/proc/self/fd/%d", p[1]);
	char l[64] = "";
	M(readlink(b, l, 63));
	printf("%.6s\n", l);
	int again = T(open(b, O_WRONLY | O_NONBLOCK));
	T(again > 0);
	return 0;
}
