/* Prepares the exec of a set-user-ID program and asks for its start without making the exec: none of our own code may go on with the new credentials. Run as an ordinary user inside. */
#include "abuse.h"

static long ask(struct slot *slot, unsigned nr, const uint64_t *args, const char *text)
{
	strcpy(slot->data, text);
	slot->nr = nr;
	memcpy(slot->args, args, sizeof slot->args);
	long r = raw6(GATE, 1, 0, GATE_MAGIC, 0, 0, 0);
	return r < 0 ? r : slot->ret;
}

/* As the supervisor says it: geteuid(2) is answered from memory. */
static uid_t asked_euid(void)
{
	uid_t real, effective, saved;
	return getresuid(&real, &effective, &saved) ? (uid_t)-1 : effective;
}

int main(int argc, char **argv)
{
	const char *program = argc > 1 ? argv[1] : "/usr/bin/su";
	struct slot *slot = own_slots();
	if (!slot || getuid() == 0) {
		printf("cannot be tried\n");
		return 3;
	}
	uint64_t args[6] = { (uint64_t)-100, (uint64_t)strlen(program) << 32, 0, 0, 0, 0 };
	{
		pid_t c = fork();
		if (c == 0) {
			slot = own_slots();
			getppid();
			long prepared = ask(slot, 0x8002, args, program);
			printf("prepared %ld\n", prepared);
			fflush(stdout);
			long started = raw6(GATE, 2, 0, GATE_MAGIC, 0, 0, 0);
			printf("started %ld, effective user %d\n", started, (int)asked_euid());
			if (started == 0 || asked_euid() == 0) printf("ESCAPED: our own code runs with the credentials of %s\n", program);
			fflush(stdout);
			_exit(0);
		}
		reap_within(c, 5000);
	}
	printf("tried\n");
	return 0;
}
