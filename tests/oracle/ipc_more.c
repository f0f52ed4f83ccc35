/* oracle: user
 * Parts of IPC that few programs use: *_STAT_ANY, locked and huge segments, MSG_EXCEPT and MSG_COPY, and polling of
 * queues. */
#include "oracle.h"
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#ifndef SHM_STAT_ANY
#define SHM_STAT_ANY 15
#endif
#ifndef SEM_STAT_ANY
#define SEM_STAT_ANY 20
#endif
#ifndef MSG_STAT_ANY
#define MSG_STAT_ANY 13
#endif
#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

struct msg {
	long type;
	char text[64];
};

static void shm(void)
{
	struct shmid_ds d;
	int id = M(shmget(IPC_PRIVATE, 8192, IPC_CREAT | 0000));
	T(shmctl(id, IPC_STAT, &d));
	int found = 0;
	struct shm_info info;
	int max = shmctl(0, SHM_INFO, (void *)&info);
	for (int i = 0; i <= max; i++)
		if (shmctl(i, SHM_STAT_ANY, &d) == id) found = 1;
	printf("found by index, without permission: %d, %zu bytes\n", found, d.shm_segsz);
	T(shmctl(99999, SHM_STAT_ANY, &d));
	T(shmctl(-1, SHM_STAT_ANY, &d));
	T(shmctl(0, SHM_STAT_ANY, (void *)8) == 0 ? 0 : 1);
	T(shmctl(id, IPC_RMID, NULL));
	id = M(shmget(IPC_PRIVATE, 8192, IPC_CREAT | 0600));
	OK(shmctl(id, SHM_LOCK, NULL));
	T(shmctl(id, IPC_STAT, &d));
	printf("locked: %d\n", !!(d.shm_perm.mode & SHM_LOCKED));
	T(shmctl(id, SHM_UNLOCK, NULL));
	T(shmctl(id, IPC_STAT, &d));
	printf("locked: %d\n", !!(d.shm_perm.mode & SHM_LOCKED));
	T(shmctl(id, 999, &d));
	T(shmctl(id, IPC_RMID, NULL));
	T(shmctl(id, SHM_LOCK, NULL));
	/* Without pages set aside there is nothing to be had. */
	T(shmget(IPC_PRIVATE, 2 << 20, IPC_CREAT | SHM_HUGETLB | 0600));
	T(shmget(IPC_PRIVATE, 2 << 20, IPC_CREAT | SHM_HUGETLB | (5 << 26) | 0600));
	T(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600));
	id = M(shmget(IPC_PRIVATE, 4096, IPC_CREAT | SHM_NORESERVE | 0600));
	char *at = shmat(id, NULL, SHM_EXEC);
	printf("attached with SHM_EXEC: %d\n", at != (void *)-1);
	T(shmat(id, NULL, SHM_REMAP) == (void *)-1 ? -1 : 0);
	T(shmat(id, at, SHM_REMAP) == at);
	T(shmdt(at + 1));
	T(shmdt(at));
	T(shmdt(at));
	T(shmctl(id, IPC_RMID, NULL));
}

static void sem(void)
{
	struct semid_ds d;
	int id = M(semget(IPC_PRIVATE, 2, IPC_CREAT | 0000));
	T(semctl(id, 0, IPC_STAT, &d));
	struct seminfo info;
	int max = semctl(0, 0, SEM_INFO, &info), found = 0;
	for (int i = 0; i <= max; i++)
		if (semctl(i, 0, SEM_STAT_ANY, &d) == id) found = 1;
	printf("found by index, without permission: %d, %lu semaphores\n", found, d.sem_nsems);
	T(semctl(99999, 0, SEM_STAT_ANY, &d));
	T(semctl(id, 0, IPC_RMID));
}

static void msg(void)
{
	struct msqid_ds d;
	struct msg m = { 1, "one" };
	int id = M(msgget(IPC_PRIVATE, IPC_CREAT | 0000)), found = 0;
	struct msginfo info;
	int max = msgctl(0, MSG_INFO, (void *)&info);
	for (int i = 0; i <= max; i++)
		if (msgctl(i, MSG_STAT_ANY, &d) == id) found = 1;
	printf("found by index, without permission: %d\n", found);
	T(msgctl(99999, MSG_STAT_ANY, &d));
	T(msgctl(id, IPC_RMID, NULL));
	id = M(msgget(IPC_PRIVATE, IPC_CREAT | 0600));
	for (int i = 1; i <= 4; i++) {
		m.type = i;
		sprintf(m.text, "message %d", i);
		M(msgsnd(id, &m, sizeof m.text, 0));
	}
	T(msgrcv(id, &m, sizeof m.text, 1, MSG_EXCEPT | IPC_NOWAIT));
	printf("type %ld\n", m.type);
	T(msgrcv(id, &m, sizeof m.text, 0, MSG_EXCEPT | IPC_NOWAIT));
	printf("type %ld\n", m.type);
	T(msgrcv(id, &m, sizeof m.text, -3, MSG_EXCEPT | IPC_NOWAIT));
	printf("type %ld\n", m.type);
	T(msgrcv(id, &m, sizeof m.text, 0, MSG_COPY | IPC_NOWAIT));
	T(msgrcv(id, &m, sizeof m.text, 7, MSG_COPY | IPC_NOWAIT));
	T(msgrcv(id, &m, sizeof m.text, 0, MSG_COPY));
	T(msgrcv(id, &m, sizeof m.text, 0, MSG_COPY | MSG_EXCEPT | IPC_NOWAIT));
	T(msgrcv(id, &m, 3, 0, MSG_COPY | IPC_NOWAIT));
	T(msgrcv(id, &m, 3, 0, MSG_NOERROR | MSG_COPY | IPC_NOWAIT));
	T(msgctl(id, IPC_STAT, &d));
	printf("%lu messages left\n", d.msg_qnum);
	T(msgrcv(id, &m, 3, 4, IPC_NOWAIT));
	T(msgrcv(id, &m, 3, 4, IPC_NOWAIT | MSG_NOERROR));
	T(msgsnd(id, &(struct msg){ 0, "" }, 1, 0));
	T(msgsnd(id, &(struct msg){ -1, "" }, 1, 0));
	T(msgsnd(id, &m, 100000, 0));
	T(msgsnd(id, &m, -1, 0));
	T(msgctl(id, IPC_RMID, NULL));
}

static void queues(void)
{
	struct mq_attr a = { 0, 2, 64, 0 };
	char name[64], b[256];
	snprintf(name, sizeof name, "/oracle-%d", getpid());
	mqd_t q = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &a);
	if (q < 0) {
		printf("mq_open: %s\n", name_of(errno));
		return;
	}
	struct pollfd p = { q, POLLIN | POLLOUT, 0 };
	T(poll(&p, 1, 0));
	printf("empty: %x\n", p.revents);
	T(mq_send(q, "hello", 5, 3));
	T(poll(&p, 1, 0));
	printf("one: %x\n", p.revents);
	T(mq_send(q, "again", 5, 4));
	T(poll(&p, 1, 0));
	printf("full: %x\n", p.revents);
	T(mq_send(q, "more", 4, 4));
	unsigned prio;
	T(mq_receive(q, b, sizeof b, &prio));
	printf("priority %u\n", prio);
	T(poll(&p, 1, 0));
	printf("one left: %x\n", p.revents);
	T(mq_close(q));
	T(mq_unlink(name));
}

int main(void)
{
	shm();
	sem();
	msg();
	queues();
	return 0;
}
