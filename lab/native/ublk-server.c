// SPDX-License-Identifier: Apache-2.0
/*
 * Serves a file as a disk over ublk, as little as a server can do: one queue, one thread, and a
 * pread() or pwrite() for each request. Debian packages no server for ublk. The job `instructions`
 * compares the interfaces between kernel and device process with it.
 *
 *   ublk-server FILE     prints the node of the disk; SIGTERM ends it
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/ublk_cmd.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH 128
#define REQUEST_BYTES (512 << 10)
#define SECTOR_SHIFT 9
/* A command of ublk's control device is longer than half of an entry. */
#define ENTRY_BYTES 128
#define OPEN_TRIES 500

struct ring {
	int fd;
	unsigned int prepared;
	unsigned int *sq_tail, *sq_mask, *sq_array;
	unsigned int *cq_head, *cq_tail, *cq_mask;
	struct io_uring_cqe *cqes;
	uint8_t *entries;
};

static int image;
static uint32_t device_id;
static char *buffers[DEPTH];

static void fail(const char *what)
{
	fprintf(stderr, "ublk-server: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *map(int fd, size_t length, off_t offset, int protection)
{
	void *memory = mmap(NULL, length, protection, MAP_SHARED, fd, offset);

	if (memory == MAP_FAILED)
		fail("mmap");
	return memory;
}

static void open_ring(struct ring *ring)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQE128 };
	uint8_t *sq, *cq;

	ring->fd = syscall(__NR_io_uring_setup, DEPTH, &params);
	if (ring->fd < 0)
		fail("io_uring_setup");
	sq = map(ring->fd, params.sq_off.array + params.sq_entries * 4, IORING_OFF_SQ_RING,
		 PROT_READ | PROT_WRITE);
	cq = map(ring->fd, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
		 IORING_OFF_CQ_RING, PROT_READ | PROT_WRITE);
	ring->entries = map(ring->fd, params.sq_entries * ENTRY_BYTES, IORING_OFF_SQES,
			    PROT_READ | PROT_WRITE);
	ring->sq_tail = (unsigned int *)(sq + params.sq_off.tail);
	ring->sq_mask = (unsigned int *)(sq + params.sq_off.ring_mask);
	ring->sq_array = (unsigned int *)(sq + params.sq_off.array);
	ring->cq_head = (unsigned int *)(cq + params.cq_off.head);
	ring->cq_tail = (unsigned int *)(cq + params.cq_off.tail);
	ring->cq_mask = (unsigned int *)(cq + params.cq_off.ring_mask);
	ring->cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
}

/* A command of a driver, for ublk's devices take no others. */
static void prepare(struct ring *ring, int fd, uint32_t operation, const void *command,
		    size_t length, uint64_t user_data)
{
	unsigned int index = *ring->sq_tail & *ring->sq_mask;
	struct io_uring_sqe *entry = (void *)(ring->entries + index * ENTRY_BYTES);

	memset(entry, 0, ENTRY_BYTES);
	entry->opcode = IORING_OP_URING_CMD;
	entry->fd = fd;
	entry->cmd_op = operation;
	entry->user_data = user_data;
	memcpy(entry->cmd, command, length);
	ring->sq_array[index] = index;
	__atomic_store_n(ring->sq_tail, *ring->sq_tail + 1, __ATOMIC_RELEASE);
	ring->prepared++;
}

static void submit_and_wait(struct ring *ring)
{
	if (syscall(__NR_io_uring_enter, ring->fd, ring->prepared, 1, IORING_ENTER_GETEVENTS, NULL,
		    0) < 0 && errno != EINTR)
		fail("io_uring_enter");
	ring->prepared = 0;
}

static struct io_uring_cqe *next(struct ring *ring)
{
	if (*ring->cq_head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
		return NULL;
	return &ring->cqes[*ring->cq_head & *ring->cq_mask];
}

static void taken(struct ring *ring)
{
	__atomic_store_n(ring->cq_head, *ring->cq_head + 1, __ATOMIC_RELEASE);
}

/* A command of the control device, to its end. */
static void control(struct ring *ring, int fd, uint32_t operation, void *data, size_t length,
		    uint64_t word, const char *what)
{
	struct ublksrv_ctrl_cmd command = {
		.dev_id = device_id,
		.queue_id = UINT16_MAX,
		.addr = (uintptr_t)data,
		.len = length,
		.data = { word },
	};
	struct io_uring_cqe *done;

	prepare(ring, fd, operation, &command, sizeof(command), 0);
	do {
		submit_and_wait(ring);
		done = next(ring);
	} while (!done);
	if (done->res < 0) {
		errno = -done->res;
		fail(what);
	}
	taken(ring);
}

static int serve_one(const struct ublksrv_io_desc *request, char *buffer)
{
	size_t length = (size_t)request->nr_sectors << SECTOR_SHIFT;
	off_t offset = (off_t)request->start_sector << SECTOR_SHIFT;
	ssize_t done;

	switch (ublksrv_get_op(request)) {
	case UBLK_IO_OP_READ:
		done = pread(image, buffer, length, offset);
		break;
	case UBLK_IO_OP_WRITE:
		done = pwrite(image, buffer, length, offset);
		break;
	case UBLK_IO_OP_FLUSH:
		done = fdatasync(image);
		break;
	default:
		return -EOPNOTSUPP;
	}
	return done < 0 ? -errno : done;
}

/* udev or devtmpfs may be a little late. */
static int open_queue(void)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/ublkc%u", device_id);
	for (int i = 0; i < OPEN_TRIES; i++) {
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		usleep(10000);
	}
	fail(path);
	return -1;
}

static void *serve(void *unused)
{
	const struct ublksrv_io_desc *requests;
	struct ring ring = { 0 };
	int fd = open_queue();

	(void)unused;
	open_ring(&ring);
	requests = map(fd, DEPTH * sizeof(*requests), UBLKSRV_CMD_BUF_OFFSET, PROT_READ);
	for (int tag = 0; tag < DEPTH; tag++) {
		struct ublksrv_io_cmd fetch = { .tag = tag, .addr = (uintptr_t)buffers[tag] };

		prepare(&ring, fd, UBLK_U_IO_FETCH_REQ, &fetch, sizeof(fetch), tag);
	}
	for (;;) {
		struct io_uring_cqe *done;

		submit_and_wait(&ring);
		for (; (done = next(&ring)); taken(&ring)) {
			struct ublksrv_io_cmd answer = { .tag = done->user_data };

			/* The disk is going away. */
			if (done->res != UBLK_IO_RES_OK)
				return NULL;
			answer.addr = (uintptr_t)buffers[answer.tag];
			answer.result = serve_one(&requests[answer.tag], buffers[answer.tag]);
			prepare(&ring, fd, UBLK_U_IO_COMMIT_AND_FETCH_REQ, &answer, sizeof(answer),
				answer.tag);
		}
	}
}

static void set_parameters(struct ring *ring, int fd)
{
	struct ublk_params params = {
		.len = sizeof(params),
		.types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.attrs = UBLK_ATTR_VOLATILE_CACHE,
			.logical_bs_shift = SECTOR_SHIFT,
			.physical_bs_shift = 12,
			.io_opt_shift = 12,
			.io_min_shift = SECTOR_SHIFT,
			.max_sectors = REQUEST_BYTES >> SECTOR_SHIFT,
		},
	};
	struct stat status;

	if (fstat(image, &status) < 0)
		fail("fstat");
	params.basic.dev_sectors = status.st_size >> SECTOR_SHIFT;
	control(ring, fd, UBLK_U_CMD_SET_PARAMS, &params, sizeof(params), 0, "SET_PARAMS");
}

int main(int argc, char **argv)
{
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = 1,
		.queue_depth = DEPTH,
		.max_io_buf_bytes = REQUEST_BYTES,
		.dev_id = UINT32_MAX,
		.ublksrv_pid = getpid(),
		.flags = UBLK_F_CMD_IOCTL_ENCODE,
	};
	struct ring ring = { 0 };
	pthread_t thread;
	sigset_t signals;
	int fd, signal;

	if (argc != 2) {
		fputs("usage: ublk-server FILE\n", stderr);
		return 2;
	}
	image = open(argv[1], O_RDWR | O_CLOEXEC);
	if (image < 0)
		fail(argv[1]);
	fd = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fail("/dev/ublk-control");
	for (int tag = 0; tag < DEPTH; tag++) {
		buffers[tag] = aligned_alloc(4096, REQUEST_BYTES);
		if (!buffers[tag])
			fail("aligned_alloc");
	}
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	open_ring(&ring);
	device_id = info.dev_id;
	control(&ring, fd, UBLK_U_CMD_ADD_DEV, &info, sizeof(info), 0, "ADD_DEV");
	device_id = info.dev_id;
	set_parameters(&ring, fd);
	/* To start the disk reads its partitions: the queue is served by then. */
	errno = pthread_create(&thread, NULL, serve, NULL);
	if (errno)
		fail("pthread_create");
	control(&ring, fd, UBLK_U_CMD_START_DEV, NULL, 0, getpid(), "START_DEV");
	printf("/dev/ublkb%u\n", device_id);
	fflush(stdout);
	sigwait(&signals, &signal);
	control(&ring, fd, UBLK_U_CMD_STOP_DEV, NULL, 0, 0, "STOP_DEV");
	control(&ring, fd, UBLK_U_CMD_DEL_DEV, NULL, 0, 0, "DEL_DEV");
	return 0;
}
