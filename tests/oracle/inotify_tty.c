/* oracle: user root
 * Watching a terminal, as programs do that wait until nobody else has it open (systemd's acquire_terminal). */
#include "oracle.h"
#include <sys/inotify.h>

static void events(int notify)
{
	char buf[4096] __attribute__((aligned(8)));
	ssize_t n;
	while ((n = read(notify, buf, sizeof buf)) > 0)
		for (char *at = buf; at < buf + n;) {
			struct inotify_event *event = (struct inotify_event *)at;
			printf("event %x name %d\n", event->mask, (int)event->len);
			at += sizeof *event + event->len;
		}
}

int main(void)
{
	int master = M(posix_openpt(O_RDWR | O_NOCTTY));
	M(grantpt(master));
	M(unlockpt(master));
	int notify = M(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	int watch = inotify_add_watch(notify, ptsname(master), IN_CLOSE | IN_OPEN | IN_MODIFY);
	printf("watched: %s\n", watch < 0 ? name_of(errno) : "yes");
	int slave = M(open(ptsname(master), O_RDWR | O_NOCTTY));
	events(notify);
	M(write(slave, "x", 1));
	events(notify);
	close(slave);
	events(notify);
	slave = M(open(ptsname(master), O_RDONLY | O_NOCTTY));
	close(slave);
	events(notify);
	T(inotify_rm_watch(notify, watch));
	events(notify);
	return 0;
}
