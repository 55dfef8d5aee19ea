// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of /dev/virtio-loopback by its ioctls alone. As root, with the modules virtio_loopback and
 * virtio_rng; no other device of the module may exist.
 *
 *   virtio_loopback [TEST...]	all tests, or those named
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include "harness.h"
#include "virtio_loopback.h"

#define NODE		"/dev/virtio-loopback"
#define PARAMETERS	"/sys/module/virtio_loopback/parameters/"
#define ID_NET		1
#define ID_RNG		4
#define ID_SPI		45
#define VERSION_1	(1ULL << 32)
#define INDIRECT_DESC	(1ULL << 28)
#define EVENT_IDX	(1ULL << 29)
#define DRIVER_OK	4
#define ORDINARY_USER	1000
#define WAIT_MS		20000
#define STEP_MS		10

/* ---- the interface, call by call: each returns 0 or the errno ---- */

static int call(int fd, unsigned long command, void *argument)
{
	return ioctl(fd, command, argument) ? errno : 0;
}

static int open_node(void)
{
	int fd = open(NODE, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	need(fd < 0 ? errno : 0, 0);
	return fd;
}

/* An entropy device that may be created. */
static struct vlo_create rng(const char *name)
{
	struct vlo_create create = {
		.abi_version = VLO_ABI_VERSION, .device_id = ID_RNG, .vendor_id = 0x564c,
		.features = VERSION_1, .pool_size = VLO_POOL_SIZE_MIN, .queue_count = 1,
		.queue_sizes = { 8 },
	};

	snprintf(create.name, sizeof(create.name), "%s", name);
	return create;
}

static int make(const struct vlo_create *create)
{
	int fd = open_node();

	need(call(fd, VLO_CREATE, (void *)create), 0);
	return fd;
}

static int attach(int fd, const char *name)
{
	struct vlo_attach attach = { .abi_version = VLO_ABI_VERSION };

	snprintf(attach.name, sizeof(attach.name), "%s", name);
	return call(fd, VLO_ATTACH, &attach);
}

static int get_queue(int fd, unsigned int index, struct vlo_queue *queue)
{
	*queue = (struct vlo_queue){ .index = index };
	return call(fd, VLO_GET_QUEUE, queue);
}

static int get_memory(int fd, unsigned int index, struct vlo_memory *memory)
{
	*memory = (struct vlo_memory){ .index = index, .fd = -1 };
	return call(fd, VLO_GET_MEMORY, memory);
}

static int start(int fd, struct vlo_session *session)
{
	*session = (struct vlo_session){ .ring_features = 0 };
	return call(fd, VLO_START, session);
}

static int set_fd(int fd, unsigned long command, unsigned int index, int event)
{
	struct vlo_fd value = { .index = index, .fd = event };

	return call(fd, command, &value);
}

/* Acknowledges what waits, as an adapter has to; returns the events. */
static unsigned int read_events(int fd)
{
	struct vlo_event event;
	int error = 0;

	if (read(fd, &event, sizeof(event)) != sizeof(event))
		return 0;
	if (event.unacked)
		error = call(fd, VLO_ACK, &event.sequence);
	/* The device may have gone since. */
	if (error != ENODEV)
		expect(error, 0);
	return event.events;
}

static unsigned int wait_for_event(int fd, unsigned int wanted)
{
	struct pollfd poller = { .fd = fd, .events = POLLIN };
	unsigned int events = 0;
	int waited;

	for (waited = 0; !(events & wanted) && waited < WAIT_MS; waited += STEP_MS) {
		poll(&poller, 1, STEP_MS);
		events |= read_events(fd);
	}
	need(!!(events & wanted), true);
	return events;
}

static void wait_for_driver(int fd)
{
	struct vlo_queue queue;
	int waited;

	for (waited = 0; waited < WAIT_MS; waited += STEP_MS) {
		read_events(fd);
		need(get_queue(fd, 0, &queue), 0);
		if (queue.state)
			return;
		usleep(STEP_MS * 1000);
	}
	skip("the driver virtio_rng has not taken the device: load it");
}

static void remove_device(int fd)
{
	need(call(fd, VLO_REMOVE, NULL), 0);
	wait_for_event(fd, VLO_EVENT_GONE);
}

static bool is_there(unsigned int id)
{
	char path[80];

	snprintf(path, sizeof(path), "/sys/bus/platform/devices/virtio-loopback.%u", id);
	return access(path, F_OK) == 0;
}

/* ---- creation ---- */

static const unsigned long all_calls[] = {
	VLO_GET_INFO, VLO_GET_QUEUE, VLO_GET_MEMORY, VLO_SET_KICK, VLO_SET_CALL, VLO_GET_CONFIG,
	VLO_SET_CONFIG, VLO_ACK, VLO_START, VLO_REMOVE,
};

#define COUNT(array)	((int)(sizeof(array) / sizeof((array)[0])))

static void no_device(void)
{
	struct pollfd poller = { .fd = open_node(), .events = POLLIN };
	char bytes[1024] = {};
	int i;

	for (i = 0; i < COUNT(all_calls); i++)
		expect(call(poller.fd, all_calls[i], bytes), EUNATCH);
	expect(read(poller.fd, bytes, sizeof(bytes)), -1);
	expect(errno, EUNATCH);
	expect(poll(&poller, 1, 0), 1);
	expect(poller.revents, POLLERR);
}

static void bad_addresses(void)
{
	struct vlo_create create = rng("addresses");
	int fd = open_node(), i;

	expect(call(fd, VLO_CREATE, NULL), EFAULT);
	expect(call(fd, VLO_ATTACH, NULL), EFAULT);
	fd = make(&create);
	for (i = 0; i < COUNT(all_calls); i++)
		if (all_calls[i] != VLO_REMOVE)
			expect(call(fd, all_calls[i], NULL), EFAULT);
	expect(call(fd, _IO('v', 0xCC), NULL), ENOTTY);
	remove_device(fd);
}

static int create_error(const struct vlo_create *create)
{
	int fd = open_node(), error = call(fd, VLO_CREATE, (void *)create);

	close(fd);
	return error;
}

/* A description with one field that is not allowed. */
#define expect_invalid(field, value, error) do { \
	struct vlo_create wrong = rng("invalid"); \
	wrong.field = (value); \
	expect(create_error(&wrong), error); \
} while (0)

static void create_invalid(void)
{
	expect_invalid(abi_version, VLO_ABI_VERSION - 1, EPROTO);
	expect_invalid(abi_version, VLO_ABI_VERSION + 1, EPROTO);
	expect_invalid(flags, 0x80, EINVAL);
	expect_invalid(features, 0, EINVAL);
	expect_invalid(reserved_features, 1, EINVAL);
	expect_invalid(reserved, 1, EINVAL);
	expect_invalid(pool_size, VLO_POOL_SIZE_MIN - 65536, EINVAL);
	expect_invalid(pool_size, VLO_POOL_SIZE_MIN + 1, EINVAL);
	expect_invalid(pool_size, VLO_POOL_SIZE_MAX + 65536ULL, EINVAL);
	expect_invalid(pool_size, 1ULL << 32 | VLO_POOL_SIZE_MIN, EINVAL);
	expect_invalid(takeover_ms, VLO_TAKEOVER_MS_MAX + 1, EINVAL);
	expect_invalid(stop_ms, VLO_STOP_MS_MAX + 1, EINVAL);
	expect_invalid(call_us, VLO_CALL_US_MAX + 1, EINVAL);
	expect_invalid(config_size, VLO_CONFIG_SIZE_MAX + 1, EINVAL);
	expect_invalid(config[0], 1, EINVAL);
	expect_invalid(name[0], 0, EINVAL);
	expect_invalid(name[0], '/', EINVAL);
	expect_invalid(name[0], ' ', EINVAL);
	expect_invalid(name[VLO_NAME_SIZE - 1], 'x', EINVAL);
	expect_invalid(queue_count, 0, EINVAL);
	expect_invalid(queue_count, 2, EINVAL);
	expect_invalid(queue_count, VLO_QUEUES_MAX + 1, EINVAL);
	expect_invalid(queue_sizes[0], 0, EINVAL);
	expect_invalid(queue_sizes[0], 9, EINVAL);
	expect_invalid(queue_sizes[0], 2 * VLO_QUEUE_SIZE_MAX, EINVAL);
	expect_invalid(queue_sizes[1], 8, EINVAL);
	expect_invalid(queue_flags[0], 0x80, EINVAL);
	expect_invalid(queue_flags[0], VLO_Q_INBOUND | VLO_Q_EARLY, EINVAL);
	expect_invalid(queue_flags[1], VLO_Q_INBOUND, EINVAL);
	/* Not a device, balloon, gpu, iommu, mem, pmem, and numbers that only look like an rng. */
	expect_invalid(device_id, 0, EAFNOSUPPORT);
	expect_invalid(device_id, 5, EAFNOSUPPORT);
	expect_invalid(device_id, 16, EAFNOSUPPORT);
	expect_invalid(device_id, 23, EAFNOSUPPORT);
	expect_invalid(device_id, 24, EAFNOSUPPORT);
	expect_invalid(device_id, 27, EAFNOSUPPORT);
	expect_invalid(device_id, 65536 + ID_RNG, EAFNOSUPPORT);
}

static void create_twice(void)
{
	struct vlo_create create = rng("twice");
	int fd = make(&create);

	expect(create_error(&create), EEXIST);
	snprintf(create.name, sizeof(create.name), "other");
	expect(call(fd, VLO_CREATE, &create), EALREADY);
	expect(attach(fd, "twice"), EALREADY);
	remove_device(fd);
}

static void describe(void)
{
	struct vlo_create create = rng("described");
	struct vlo_info info;
	int fd;

	create.takeover_ms = 1;
	create.stop_ms = 2;
	create.call_us = 3;
	create.config_size = 4;
	create.queue_count = 2;
	create.queue_sizes[1] = 64;
	create.queue_flags[1] = VLO_Q_INBOUND;
	fd = make(&create);
	memset(&info, 0xff, sizeof(info));
	need(call(fd, VLO_GET_INFO, &info), 0);
	expect(info.abi_version, VLO_ABI_VERSION);
	expect(info.flags, 0);
	expect(info.device_id, ID_RNG);
	expect(info.vendor_id, create.vendor_id);
	expect(info.queue_count, 2);
	expect(info.config_size, 4);
	expect(info.takeover_ms, 1);
	expect(info.stop_ms, 2);
	expect(info.call_us, 3);
	expect(info.features, VERSION_1);
	expect(info.driver_features & ~VERSION_1, 0);
	expect(info.pool_size, VLO_POOL_SIZE_MIN);
	expect(memcmp(info.name, create.name, sizeof(info.name)), 0);
	expect(memcmp(info.queue_sizes, create.queue_sizes, sizeof(info.queue_sizes)), 0);
	expect(memcmp(info.queue_flags, create.queue_flags, sizeof(info.queue_flags)), 0);
	expect(is_there(info.id), true);
	remove_device(fd);
	expect(call(fd, VLO_GET_INFO, &info), ENODEV);
}

/* ---- permissions ---- */

/* Takes one capability away, or all with -1. */
static void drop_capability(int capability)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	need(syscall(SYS_capget, &header, data), 0);
	if (capability < 0)
		memset(data, 0, sizeof(data));
	else
		data[capability / 32].effective &= ~(1U << capability % 32);
	need(syscall(SYS_capset, &header, data), 0);
}

/* The types need CAP_SYS_ADMIN or CAP_NET_ADMIN, whatever the mode of the node is. */
static void types_need_capabilities(void)
{
	struct vlo_create create = rng("denied");
	int fd = open_node();

	drop_capability(CAP_SYS_ADMIN);
	expect(call(fd, VLO_CREATE, &create), EPERM);
	create.device_id = ID_NET;
	drop_capability(CAP_NET_ADMIN);
	expect(call(fd, VLO_CREATE, &create), EPERM);
}

static bool is_direct_allowed(void)
{
	int fd = open(PARAMETERS "direct", O_RDONLY);
	char answer = 0;

	need(fd < 0 ? errno : 0, 0);
	need(read(fd, &answer, 1), 1);
	close(fd);
	return answer == 'Y';
}

static void direct_needs_rawio(void)
{
	struct vlo_create create = rng("direct");

	create.flags = VLO_F_DIRECT;
	drop_capability(CAP_SYS_RAWIO);
	expect(create_error(&create), is_direct_allowed() ? EPERM : EACCES);
}

static void become_ordinary(void)
{
	need(setgroups(0, NULL), 0);
	need(setresgid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER), 0);
	need(setresuid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER), 0);
}

/* A device of root's is not for other users, not even for those who have the open node. */
static void takeover_needs_owner(void)
{
	struct vlo_create create = rng("owned");
	int node = open_node(), status = -1;
	pid_t child;

	create.takeover_ms = VLO_TAKEOVER_MS_MAX;
	close(make(&create));
	fflush(stdout);
	child = fork();
	if (!child) {
		become_ordinary();
		expect(attach(node, "owned"), EPERM);
		fflush(stdout);
		_exit(failures);
	}
	need(waitpid(child, &status, 0), child);
	expect(status, 0);
	need(attach(node, "owned"), 0);
	remove_device(node);
}

/* ---- takeover ---- */

static void attach_errors(void)
{
	struct vlo_attach wrong = { .abi_version = VLO_ABI_VERSION + 1, .name = "busy" };
	struct vlo_create create = rng("busy");
	int fd = make(&create), other = open_node();

	expect(attach(other, "busy"), EBUSY);
	expect(attach(other, "missing"), ENOENT);
	expect(attach(other, ""), ENOENT);
	expect(call(other, VLO_ATTACH, &wrong), EPROTO);
	wrong.abi_version = VLO_ABI_VERSION;
	wrong.reserved = 1;
	expect(call(other, VLO_ATTACH, &wrong), EINVAL);
	wrong.reserved = 0;
	memset(wrong.name, 'x', sizeof(wrong.name));
	expect(call(other, VLO_ATTACH, &wrong), EINVAL);
	remove_device(fd);
	expect(call(other, VLO_GET_INFO, NULL), EUNATCH);
}

static void takeover(void)
{
	struct vlo_create create = rng("orphan");
	struct vlo_info before, after;
	int fd, other = open_node();

	create.takeover_ms = VLO_TAKEOVER_MS_MAX;
	fd = make(&create);
	need(call(fd, VLO_GET_INFO, &before), 0);
	close(fd);
	need(attach(other, "orphan"), 0);
	need(call(other, VLO_GET_INFO, &after), 0);
	expect(after.id, before.id);
	/* The new adapter has to look at all that the dead one may have seen. */
	wait_for_event(other, VLO_EVENT_RESET);
	expect(attach(other, "orphan"), EALREADY);
	remove_device(other);
}

/* Without takeover_ms a device goes with its adapter. */
static void no_takeover(void)
{
	struct vlo_create create = rng("shortlived");
	int fd = make(&create), waited;
	struct vlo_info info;

	need(call(fd, VLO_GET_INFO, &info), 0);
	close(fd);
	fd = open_node();
	expect(attach(fd, "shortlived") != 0, true);
	for (waited = 0; is_there(info.id) && waited < WAIT_MS; waited += STEP_MS)
		usleep(STEP_MS * 1000);
	expect(is_there(info.id), false);
	expect(attach(fd, "shortlived"), ENOENT);
}

/* ---- queues, eventfds, config space ---- */

static void queue_bounds(void)
{
	struct vlo_create create = rng("queues");
	int fd = make(&create), event = eventfd(0, 0), closed = dup(event);
	static const unsigned long commands[] = { VLO_SET_KICK, VLO_SET_CALL };
	struct vlo_queue queue;
	int i;

	close(closed);
	expect(get_queue(fd, 1, &queue), EINVAL);
	expect(get_queue(fd, UINT32_MAX, &queue), EINVAL);
	for (i = 0; i < COUNT(commands); i++) {
		expect(set_fd(fd, commands[i], 1, event), EINVAL);
		expect(set_fd(fd, commands[i], UINT32_MAX, event), EINVAL);
		expect(set_fd(fd, commands[i], 0, -2), EINVAL);
		expect(set_fd(fd, commands[i], 0, fd), EINVAL);
		expect(set_fd(fd, commands[i], 0, closed), EBADF);
		expect(set_fd(fd, commands[i], 0, event), 0);
		expect(set_fd(fd, commands[i], 0, event), 0);
		expect(set_fd(fd, commands[i], 0, -1), 0);
		expect(set_fd(fd, commands[i], 0, -1), 0);
	}
	remove_device(fd);
}

static void config_bounds(void)
{
	struct vlo_create create = rng("config");
	struct vlo_config config = { .offset = 2, .size = 2, .bytes = { 0xaa, 0xbb } };
	int fd;

	create.config_size = 4;
	memcpy(create.config, "\1\2\3\4", 4);
	fd = make(&create);
	expect(call(fd, VLO_SET_CONFIG, &config), 0);
	config = (struct vlo_config){ .size = 4, .bytes = { [4] = 0xff } };
	expect(call(fd, VLO_GET_CONFIG, &config), 0);
	expect(memcmp(config.bytes, "\1\2\xaa\xbb\0", 5), 0);
	config = (struct vlo_config){ .offset = 4, .size = 0 };
	expect(call(fd, VLO_GET_CONFIG, &config), 0);
	config = (struct vlo_config){ .offset = 5, .size = 0 };
	expect(call(fd, VLO_GET_CONFIG, &config), EINVAL);
	config = (struct vlo_config){ .offset = 3, .size = 2 };
	expect(call(fd, VLO_GET_CONFIG, &config), EINVAL);
	expect(call(fd, VLO_SET_CONFIG, &config), EINVAL);
	config = (struct vlo_config){ .offset = 4, .size = UINT32_MAX };
	expect(call(fd, VLO_GET_CONFIG, &config), EINVAL);
	expect(call(fd, VLO_SET_CONFIG, &config), EINVAL);
	config = (struct vlo_config){ .offset = UINT32_MAX, .size = 2 };
	expect(call(fd, VLO_SET_CONFIG, &config), EINVAL);
	remove_device(fd);
}

static void acknowledge(void)
{
	struct vlo_create create = rng("acked");
	int fd = make(&create);
	__u32 sequence = 1U << 31;

	expect(call(fd, VLO_ACK, &sequence), EINVAL);
	sequence = UINT32_MAX;
	expect(call(fd, VLO_ACK, &sequence), EINVAL);
	remove_device(fd);
}

/* ---- sessions ---- */

/* A session's memory and its only ring, from the side of the back end. */
struct mapping {
	struct vlo_memory memory;
	struct vlo_queue queue;
	unsigned char *bytes;
	struct { __u64 address; __u32 size; __u16 flags, next; } *desc;
	volatile __u16 *avail;		/* flags, index, ring */
	volatile __u16 *used;		/* flags, index, ring of two times 32 bits */
	__u16 next;
};

static void *at(struct mapping *mapping, __u64 address, __u64 size)
{
	__u64 offset = address - mapping->memory.address;

	need(address >= mapping->memory.address && offset + size <= mapping->memory.size, true);
	return mapping->bytes + offset;
}

static void map_session(int fd, struct mapping *mapping)
{
	need(get_memory(fd, 0, &mapping->memory), 0);
	need(get_queue(fd, 0, &mapping->queue), 0);
	need(mapping->queue.state, VLO_QUEUE_STARTED);
	mapping->bytes = mmap(NULL, mapping->memory.size, PROT_READ | PROT_WRITE, MAP_SHARED,
			      mapping->memory.fd, 0);
	need(mapping->bytes == MAP_FAILED, false);
	mapping->desc = at(mapping, mapping->queue.descriptor, mapping->queue.size * 16);
	mapping->avail = at(mapping, mapping->queue.driver, 6 + mapping->queue.size * 2);
	mapping->used = at(mapping, mapping->queue.device, 6 + mapping->queue.size * 8);
	mapping->next = mapping->queue.base;
}

static __u16 outstanding(struct mapping *mapping)
{
	return mapping->avail[1] - mapping->next;
}

static void use(struct mapping *mapping, __u32 id, __u32 size, int event)
{
	__u16 index = mapping->used[1];
	volatile __u32 *entry = (volatile __u32 *)(mapping->used + 2) +
				2 * (index & (mapping->queue.size - 1));

	entry[0] = id;
	entry[1] = size;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	mapping->used[1] = index + 1;
	need(eventfd_write(event, 1), 0);
}

/* Fills the driver's next buffer with a byte; false if there is none. */
static bool serve(struct mapping *mapping, unsigned char byte, int event)
{
	__u16 head;

	if (!outstanding(mapping))
		return false;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	head = mapping->avail[2 + (mapping->next++ & (mapping->queue.size - 1))];
	need(head < mapping->queue.size, true);
	memset(at(mapping, mapping->desc[head].address, mapping->desc[head].size), byte,
	       mapping->desc[head].size);
	use(mapping, head, mapping->desc[head].size, event);
	return true;
}

static void start_errors(void)
{
	struct vlo_create create = rng("refused");
	struct vlo_session session;
	struct vlo_memory memory;
	int fd;

	create.features |= INDIRECT_DESC;
	fd = make(&create);
	expect(get_memory(fd, 0, &memory), ENOENT);
	expect(get_memory(fd, 1, &memory), ENOENT);
	expect(get_memory(fd, 2, &memory), EINVAL);
	wait_for_driver(fd);
	expect(start(fd, &session), EPROTONOSUPPORT);
	session = (struct vlo_session){ .ring_features = INDIRECT_DESC, .flags = 2 };
	expect(call(fd, VLO_START, &session), EINVAL);
	session = (struct vlo_session){ .ring_features = INDIRECT_DESC, .number = 1 };
	expect(call(fd, VLO_START, &session), EINVAL);
	session = (struct vlo_session){ .ring_features = INDIRECT_DESC | 1 };
	expect(call(fd, VLO_START, &session), EINVAL);
	expect(get_memory(fd, 0, &memory), ENOENT);
	session = (struct vlo_session){ .ring_features = INDIRECT_DESC };
	expect(call(fd, VLO_START, &session), 0);
	expect(session.number, 1);
	remove_device(fd);
}

/* No driver: nothing to begin a session with. SPI is for boards, so its driver is not loaded. */
static void start_without_driver(void)
{
	struct vlo_create create = rng("driverless");
	struct vlo_session session;
	int fd;

	create.device_id = ID_SPI;
	fd = make(&create);
	expect(start(fd, &session), ENODATA);
	remove_device(fd);
}

/* Its file has the size that it was made with, and keeps it. */
static void memory_bounds(void)
{
	struct vlo_create create = rng("bounds");
	long page = sysconf(_SC_PAGESIZE);
	struct vlo_session session;
	struct mapping mapping;
	struct stat status;
	unsigned char *beyond;
	pid_t child;
	int fd = make(&create), end = -1;

	wait_for_driver(fd);
	need(start(fd, &session), 0);
	map_session(fd, &mapping);
	expect(mapping.memory.size, VLO_POOL_SIZE_MIN);
	need(fstat(mapping.memory.fd, &status), 0);
	expect(status.st_size, VLO_POOL_SIZE_MIN);
	expect(ftruncate(mapping.memory.fd, 0), -1);
	expect(ftruncate(mapping.memory.fd, 2 * VLO_POOL_SIZE_MIN), -1);
	expect(mapping.bytes[VLO_POOL_SIZE_MIN - 1], 0);
	beyond = mmap(NULL, page, PROT_READ, MAP_SHARED, mapping.memory.fd, VLO_POOL_SIZE_MIN);
	if (beyond != MAP_FAILED) {
		fflush(stdout);
		child = fork();
		if (!child)
			_exit(*(volatile unsigned char *)beyond & 0);
		need(waitpid(child, &end, 0), child);
		expect(WIFSIGNALED(end) ? WTERMSIG(end) : 0, SIGBUS);
	}
	remove_device(fd);
}

/* A new session has new memory, and the requests of the last one. */
static void session_renewal(void)
{
	struct vlo_create create = rng("renewed");
	struct vlo_session session;
	struct mapping first, second;
	int fd = make(&create), waited;
	__u16 count;

	wait_for_driver(fd);
	need(start(fd, &session), 0);
	expect(session.number, 1);
	expect(session.replayed + session.failed, 0);
	map_session(fd, &first);
	for (waited = 0; !outstanding(&first) && waited < WAIT_MS; waited += STEP_MS)
		usleep(STEP_MS * 1000);
	count = outstanding(&first);
	need(count > 0, true);
	need(start(fd, &session), 0);
	expect(session.number, 2);
	expect(session.replayed, count);
	expect(session.failed, 0);
	map_session(fd, &second);
	expect(second.memory.address != first.memory.address, true);
	expect(outstanding(&second), count);
	/* The old memory is the old back end's alone. */
	memset(first.bytes, 0xff, first.memory.size);
	expect(outstanding(&second), count);
	expect(second.bytes[second.memory.size - 1], 0);
	session = (struct vlo_session){ .flags = VLO_S_FAIL };
	need(call(fd, VLO_START, &session), 0);
	expect(session.number, 3);
	expect(session.failed, count);
	expect(session.replayed, 0);
	remove_device(fd);
}

/* A reader of /dev/hwrng; its status is 0 if all that it got has that value. */
static pid_t start_reader(unsigned char byte)
{
	unsigned char bytes[64];
	pid_t child;
	int fd, i;

	fflush(stdout);
	child = fork();
	if (child)
		return child;
	fd = open("/dev/hwrng", O_RDONLY);
	if (fd < 0 || read(fd, bytes, sizeof(bytes)) <= 0)
		_exit(1);
	for (i = 0; i < COUNT(bytes) && bytes[i] == byte; i++)
		;
	_exit(i < COUNT(bytes) ? 2 : 0);
}

/* Requests reach the back end, and its answers an application. */
static void requests_are_served(void)
{
	struct vlo_create create = rng("served");
	int fd = make(&create), kick = eventfd(0, EFD_NONBLOCK), event = eventfd(0, EFD_NONBLOCK);
	struct vlo_session session;
	struct mapping mapping;
	eventfd_t kicks = 0, some;
	int status = -1, waited, served = 0;
	pid_t reader;

	need(set_fd(fd, VLO_SET_KICK, 0, kick), 0);
	need(set_fd(fd, VLO_SET_CALL, 0, event), 0);
	wait_for_driver(fd);
	need(start(fd, &session), 0);
	map_session(fd, &mapping);
	reader = start_reader(0xa5);
	for (waited = 0; waited < WAIT_MS; waited++) {
		served += serve(&mapping, 0xa5, event);
		if (!eventfd_read(kick, &some))
			kicks += some;
		if (waitpid(reader, &status, WNOHANG) == reader)
			break;
		usleep(1000);
	}
	expect(status, 0);
	expect(served > 0, true);
	expect(kicks > 0, true);
	printf("# %d requests, %llu kicks\n", served, (unsigned long long)kicks);

	/* The next ring asks for a kick from its first request on, though it begins elsewhere. */
	session = (struct vlo_session){ .ring_features = EVENT_IDX };
	need(call(fd, VLO_START, &session), 0);
	map_session(fd, &mapping);
	expect(mapping.queue.base > 0, true);
	expect(mapping.used[2 + 4 * mapping.queue.size], mapping.queue.base);
	remove_device(fd);
}

/* A back end that makes no sense loses its session; the next one is heard. */
static void broken_ring(void)
{
	struct vlo_create create = rng("broken");
	int fd = make(&create), event = eventfd(0, EFD_NONBLOCK);
	struct vlo_session session;
	struct mapping mapping;

	need(set_fd(fd, VLO_SET_CALL, 0, event), 0);
	wait_for_driver(fd);
	need(start(fd, &session), 0);
	map_session(fd, &mapping);
	use(&mapping, 999, 0, event);
	wait_for_event(fd, VLO_EVENT_BROKEN);
	need(start(fd, &session), 0);
	expect(session.number, 2);
	map_session(fd, &mapping);
	expect(read_events(fd) & VLO_EVENT_BROKEN, 0);
	remove_device(fd);
}

/* ---- the end ---- */

static void removed(void)
{
	struct vlo_create create = rng("removed");
	struct pollfd poller = { .fd = make(&create), .events = POLLIN };
	char bytes[1024] = {};
	int i;

	remove_device(poller.fd);
	for (i = 0; i < COUNT(all_calls); i++)
		expect(call(poller.fd, all_calls[i], bytes), ENODEV);
	expect(call(poller.fd, VLO_CREATE, &create), EALREADY);
	expect(attach(poller.fd, "removed"), EALREADY);
	expect(read(poller.fd, bytes, sizeof(bytes)), -1);
	expect(errno, ENODEV);
	expect(poll(&poller, 1, 0), 1);
	expect(poller.revents, POLLHUP);
}

static const struct test tests[] = {
	{ "no_device", no_device },
	{ "bad_addresses", bad_addresses },
	{ "create_invalid", create_invalid },
	{ "create_twice", create_twice },
	{ "describe", describe },
	{ "types_need_capabilities", types_need_capabilities },
	{ "direct_needs_rawio", direct_needs_rawio },
	{ "takeover_needs_owner", takeover_needs_owner },
	{ "attach_errors", attach_errors },
	{ "takeover", takeover },
	{ "no_takeover", no_takeover },
	{ "queue_bounds", queue_bounds },
	{ "config_bounds", config_bounds },
	{ "acknowledge", acknowledge },
	{ "start_without_driver", start_without_driver },
	{ "start_errors", start_errors },
	{ "memory_bounds", memory_bounds },
	{ "session_renewal", session_renewal },
	{ "requests_are_served", requests_are_served },
	{ "broken_ring", broken_ring },
	{ "removed", removed },
};

int main(int argc, char **argv)
{
	return run_tests(tests, COUNT(tests), argv + (argc > 0));
}
