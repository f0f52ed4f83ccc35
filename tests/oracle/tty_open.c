/* oracle: user
 * A session leader without a terminal gets the one it opens, unless it says O_NOCTTY. */
#include "oracle.h"

int main(void)
{
	char name[64];
	int m = M(open("/dev/ptmx", O_RDWR | O_NOCTTY));
	M(grantpt(m));
	M(unlockpt(m));
	M(ptsname_r(m, name, sizeof name));
	CHILD("leader", {
		M(setsid());
		pid_t session = -1;
		int s = M(open(name, O_RDWR | O_NOCTTY));
		T(ioctl(s, TIOCGSID, &session));
		close(s);
		s = M(open(name, O_RDWR));
		T(ioctl(s, TIOCGSID, &session));
		printf("mine %d\n", session == getpid());
		T(open("/dev/tty", O_RDWR) >= 0);
	});
	return 0;
}
