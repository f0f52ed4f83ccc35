/* oracle: user root
 * TCP without waiting: connect(2) in progress, refused, epoll level- and edge-triggered, accept(2) that finds nobody. */
#include "inet.h"

static int ep;
static void waits(const char *what, int ms)
{
	struct epoll_event e[4];
	int n = epoll_wait(ep, e, 4, ms);
	printf("%s: epoll %d", what, n);
	if (n == 2 && e[0].data.u32 > e[1].data.u32) {
		struct epoll_event first = e[0];
		e[0] = e[1];
		e[1] = first;
	}
	for (int i = 0; i < n; i++)
		printf(" %s%s%s%s%s%s", e[i].data.u32 == 1 ? "listener" : e[i].data.u32 == 2 ? "client" : "server",
		       e[i].events & EPOLLIN ? " IN" : "", e[i].events & EPOLLOUT ? " OUT" : "",
		       e[i].events & EPOLLERR ? " ERR" : "", e[i].events & EPOLLHUP ? " HUP" : "",
		       e[i].events & EPOLLRDHUP ? " RDHUP" : "");
	printf("\n");
}
static void add(int fd, unsigned id, unsigned events)
{
	struct epoll_event e = { events, { .u32 = id } };
	M(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}

static void connects(unsigned edge, int watched_before)
{
	printf("-- connects, %s-triggered, watched %s\n", edge ? "edge" : "level", watched_before ? "before" : "after");
	ep = M(epoll_create1(0));
	int l = M(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	M(bind_to(l, "127.0.0.1", 0));
	M(listen(l, 8));
	T(accept(l, NULL, NULL));
	add(l, 1, EPOLLIN | edge);
	int c = M(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	if (watched_before) {
		add(c, 2, EPOLLIN | EPOLLOUT | EPOLLRDHUP | edge);
		waits("unconnected", 0);
	}
	T(connect_to(c, "127.0.0.1", port_of(l)));
	msleep(30);
	if (!watched_before) add(c, 2, EPOLLIN | EPOLLOUT | EPOLLRDHUP | edge);
	struct epoll_event e[4];
	printf("both ready %d\n", epoll_wait(ep, e, 4, 1000));
	T(opt(c, SOL_SOCKET, SO_ERROR));
	T(connect_to(c, "127.0.0.1", port_of(l)));
	T(connect_to(c, "127.0.0.1", port_of(l)));
	NAME(getpeername, c);
	int s = M(accept4(l, NULL, NULL, SOCK_NONBLOCK));
	T(accept(l, NULL, NULL));
	NAME(getpeername, s);
	T(fcntl(s, F_GETFL) & O_NONBLOCK);
	char b[8];
	T(recv(s, b, 8, 0));
	add(s, 3, EPOLLIN | EPOLLRDHUP | edge);
	waits("nothing", 0);
	M(send(c, "a", 1, 0));
	waits("something", 1000);
	waits("again", 0);
	T(recv(s, b, 8, 0));
	T(recv(s, b, 8, 0));
	M(shutdown(c, SHUT_WR));
	waits("half closed", 1000);
	close(s);
	close(c);
	close(l);
	close(ep);
}

static void refused(int watched_before)
{
	printf("-- refused, watched %s\n", watched_before ? "before" : "after");
	int l = listener(AF_INET, SOCK_STREAM, "127.0.0.1"), port = port_of(l);
	close(l);
	ep = M(epoll_create1(0));
	int c = M(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	if (watched_before) {
		add(c, 2, EPOLLIN | EPOLLOUT | EPOLLET);
		waits("unconnected", 0);
	}
	T(connect_to(c, "127.0.0.1", port));
	msleep(30);
	if (!watched_before) add(c, 2, EPOLLIN | EPOLLOUT);
	waits("refused", 1000);
	T(opt(c, SOL_SOCKET, SO_ERROR));
	T(opt(c, SOL_SOCKET, SO_ERROR));
	NAME(getpeername, c);
	/* And once more, to one who listens. */
	l = M(socket(AF_INET, SOCK_STREAM, 0));
	M(bind_to(l, "127.0.0.1", port));
	M(listen(l, 8));
	T(connect_to(c, "127.0.0.1", port));
	T(connect_to(c, "127.0.0.1", port));
	msleep(30);
	T(opt(c, SOL_SOCKET, SO_ERROR));
	polled("connected", c, 1000);
	int s = M(accept(l, NULL, NULL));
	T(send(s, "y", 1, 0));
	char b[2];
	msleep(10);
	T(recv(c, b, 2, 0));
	close(s);
	close(c);
	close(l);
	close(ep);
}

static void times_out(void)
{
	printf("-- timeouts\n");
	int l = listener(AF_INET, SOCK_STREAM, "127.0.0.1");
	struct timeval t = { 0, 50000 };
	T(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
	T(accept(l, NULL, NULL));
	int c = M(socket(AF_INET, SOCK_STREAM, 0));
	M(connect_to(c, "127.0.0.1", port_of(l)));
	T(setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
	char b[2];
	T(recv(c, b, 2, 0));
	close(l);
	close(c);
}

int main(void)
{
	connects(0, 0);
	connects(EPOLLET, 0);
	connects(EPOLLET, 1);
	refused(0);
	refused(1);
	times_out();
	return 0;
}
