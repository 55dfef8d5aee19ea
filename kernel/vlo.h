/* SPDX-License-Identifier: GPL-2.0 */
/*
 * virtio-loopback: a virtio transport whose device is a process. What the files share.
 *
 * The kernel's own virtio drivers meet a vhost-user back end without a hypervisor. Each queue has
 * two rings. The driver's ring is ordinary kernel memory, which no back end can reach. The device's
 * ring lies in memory that the back end maps. The module copies requests from the one to the other,
 * with their buffers, and completions back:
 *
 *   driver --- driver's ring --- vlo_pump() --> device's ring --- kick (eventfd) --> back end
 *   driver <-- driver's ring --- vlo_reap() <-- device's ring <-- call (eventfd) --- back end
 *
 * So the kernel alone knows which requests are outstanding. It believes nothing that a back end
 * writes: of the shared memory it reads used entries and event fields, each once, and checks them.
 *
 * A session is the time of one back end, with memory of its own. When it ends, its memory belongs
 * to the old back end alone, and outstanding requests are placed in the next one's rings.
 *
 * Life of a device, and who holds a reference to it:
 *
 *   VLO_CREATE --> registered <--> orphan (no adapter; for takeover_ms) --> dead --> removed
 *                      '-- VLO_REMOVE --> removed
 *
 * "Dead" is final: all outstanding requests fail, and so does each new one, until the driver has
 * let go. References: the open file, the virtio device (until its release), and the list of devices
 * (until the removal has ended).
 *
 * Locks, outermost first:
 *   vlo_list_lock      the list of devices; owner and condemned of each
 *   device->lock       sessions, queues as the driver has set them up, calls; a mutex
 *   region->lock       revocation of RAM against page faults; taken under mmap_lock, leaf
 *   queue->avail_lock  from the driver's ring to the device's; the kick
 *   queue->used_lock   from the device's ring to the driver's
 *   pool->lock         free pages; leaf
 *   device->state_lock events, sequence numbers, config space; leaf
 * The last four are spinlocks with interrupts off: a driver may notify from anywhere. The wait
 * queue of the kick eventfd nests inside of avail_lock. The wait queue of a call eventfd is held
 * around vlo_call_wake(), which takes none of these.
 */
#ifndef VLO_H
#define VLO_H

#include "compat.h"

#include <linux/cred.h>
#include <linux/irq_work.h>
#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/spinlock.h>
#include <linux/virtio_ring.h>
#include <linux/workqueue.h>

#include "virtio_loopback.h"

#define VLO_DEVICES_MAX		256
#define VLO_FLAGS		(VLO_F_DIRECT | VLO_F_CONFIG_WAIT)
#define VLO_QUEUE_FLAGS		(VLO_Q_INBOUND | VLO_Q_EARLY | VLO_Q_SECTORS)

/* Guest addresses. RAM lies at its physical addresses, pools lie above all RAM. */
#define VLO_POOL_ADDRESS	BIT_ULL(46)
/* Sessions take turns, so that an adapter can add the new memory before it removes the old. */
#define VLO_POOL_STRIDE		BIT_ULL(32)
#define VLO_POOL_TURNS		4

/* Pages of a request's own place in the pool: for 4 KiB and what goes with it. */
#define VLO_FRAME_PAGES		2

/* Of the requests that are outstanding, a call may be held back for one in so many. */
#define VLO_CALL_SHARE		8

/* Features of the device's ring that the module can serve. */
#define VLO_RING_FEATURES	(BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) | \
				 BIT_ULL(VIRTIO_RING_F_EVENT_IDX) | \
				 BIT_ULL(VIRTIO_F_RING_PACKED))

struct vlo_device;
struct vlo_vq;

/* The memory of a session: rings, then frames (one for each request), then pages for all. */
struct vlo_pool {
	struct file *file;		/* shared memory: what the back end maps */
	struct file *ram;		/* VLO_F_DIRECT: the host's RAM, until the session ends */
	struct page **pages;
	u32 page_count;
	u32 room;			/* pages behind rings and frames */
	void *base;			/* the pages in a row, for the kernel */
	u64 address;			/* guest address of the first byte */
	struct mm_struct *charged;	/* whose locked memory it counts as */
	u64 key[2];			/* of the marks: see bounce.c */

	spinlock_t lock;		/* map, hint */
	unsigned long *map;		/* a bit for each page that is in use */
	u32 hint;
};

/* The device's ring, as its driver sees it. See ring.c. */
struct vlo_ring {
	bool is_active;
	bool is_packed;
	bool has_event_idx;
	u16 size;
	union {
		struct {
			struct vring_desc *desc;
			struct vring_avail *avail;
			struct vring_used *used;
		};
		struct {
			struct vring_packed_desc *slots;
			struct vring_packed_desc_event *driver_event;
			struct vring_packed_desc_event *device_event;
		};
	};
	u64 descriptor, driver, device;	/* guest addresses of the three */
	u32 base;			/* as SET_VRING_BASE has it */
	/* avail_lock */
	u16 avail_next;
	u16 avail_kicked;		/* avail_next at the last look at the device's wishes */
	bool avail_wrap;
	/* used_lock */
	u16 used_next;
	bool used_wrap;
};

enum vlo_state {
	VLO_IDLE,			/* not placed by the driver, or completed */
	VLO_PREPARED,			/* to be placed: again, or from a slot (early.c) */
	VLO_SENT,			/* in the device's ring */
};

#define VLO_IN_PARTS	2	/* buffers to write into that are remembered until the end */

struct vlo_in {
	void *origin;			/* the driver's buffer */
	u32 at, size;			/* in the place */
};

/* A request that the driver has placed, by its head in the driver's ring. */
struct vlo_request {
	u64 serial;			/* order of placing */
	u64 seed;			/* of the marks in its buffers */
	u32 page, pages;		/* its place in the pool; 0 pages: its frame, or none */
	u32 small;			/* where small buffers begin in it: see bounce.c */
	u32 in_bytes;			/* bytes that the device may write */
	u32 in_count;			/* buffers that it may write into */
	struct vlo_in in[VLO_IN_PARTS];
	u16 count;			/* descriptors in the device's ring */
	u8 state;			/* enum vlo_state; the two halves hand it over */
};

struct vlo_call {
	struct vlo_vq *queue;
	struct eventfd_ctx *eventfd;
	wait_queue_entry_t wait;
	poll_table table;
};

struct vlo_counters {
	u64 forwarded, completed, failed, dropped, replayed;
	u64 out_bytes, in_bytes;
	u64 kicks, interrupts, starved, overstated, broken;
};

/* Bits of vlo_vq.bits */
#define VLO_INTERRUPT_DUE	0	/* completions that the driver was not told of */
#define VLO_STARVED		1	/* requests wait for room in the pool */
#define VLO_BREAK_UNTOLD	2	/* a broken ring that the log does not tell of yet */

struct vlo_vq {
	struct vlo_device *device;
	u32 index;
	u8 flags;			/* VLO_Q_* */
	unsigned long bits;

	/* device->lock; and what runs the queue, while it is not paused */
	bool is_ready;
	struct virtqueue *vq;
	struct vring vring;		/* the driver's ring */
	u32 size;
	struct vlo_request *requests;	/* by head */
	u16 *replay;			/* heads to place before new ones, oldest first */
	struct vlo_pool *pool;
	struct vlo_ring ring;		/* the device's ring */
	u32 frames;			/* first page of the frames; 0: none */
	struct vlo_early *early;	/* VLO_Q_EARLY: see early.c */

	spinlock_t avail_lock ____cacheline_aligned_in_smp;
	bool avail_paused;
	bool avail_threaded;		/* pump_work goes on, and nothing else */
	u16 avail_next;			/* next entry of the driver's available ring */
	u16 replay_at, replay_count;
	u64 serial;
	struct eventfd_ctx *kick;

	spinlock_t used_lock ____cacheline_aligned_in_smp;
	bool used_paused;
	bool used_threaded;		/* reap_work goes on, and nothing else */
	u16 used_next;			/* next entry of the driver's used ring */
	u32 broken_id;			/* what the back end used that made no sense */

	atomic_t sent;			/* requests in the device's ring */
	struct vlo_call *call;		/* device->lock */
	struct irq_work call_work;
	struct irq_work kick_work;
	struct hrtimer call_timer;
	struct work_struct pump_work;
	struct work_struct reap_work;
	struct vlo_counters counters;
};

struct vlo_device {
	struct virtio_device vdev;
	struct kref refs;
	struct list_head list;
	struct platform_device *parent;
	struct dentry *debugfs;
	char name[VLO_NAME_SIZE];
	u32 id;
	u32 flags, queue_count, config_size, takeover_ms, stop_ms, call_us;
	u64 features;
	u64 pool_size;
	u16 queue_sizes[VLO_QUEUES_MAX];
	kuid_t uid;			/* of who made it: see policy.c */
	struct user_namespace *user_ns;

	/* vlo_list_lock */
	struct vlo_handle *owner;
	bool condemned;			/* it cannot be taken over any more */

	struct mutex lock;		/* see the top */
	struct vlo_vq *queues;
	struct vlo_pool *pool;		/* of the present session; NULL: none */
	u32 session;			/* number of the present session, or the last */

	spinlock_t state_lock;		/* see the top */
	u8 status;
	u32 events, sequence, acked;	/* acked != sequence: the driver waits */
	u32 generation;
	u8 config[VLO_CONFIG_SIZE_MAX];
	wait_queue_head_t wait;

	bool dead;			/* set once, by vlo_kill() */
	bool gone;			/* set once, at the end of vlo_remove_work() */
	bool known;			/* the driver core knows vdev: its locks are there */
	bool registered;		/* register_work, then remove_work */
	unsigned long removing;		/* bit 0 */
	struct work_struct register_work, remove_work, free_work, fail_work;
	struct delayed_work orphan_work;
};

/* An open file. Its device is set once and stays. */
struct vlo_handle {
	struct mutex lock;		/* setting device */
	struct vlo_device *device;
	struct pid *process;		/* the adapter: of who has set device */
};

static inline struct vlo_device *to_vlo(struct virtio_device *vdev)
{
	return container_of(vdev, struct vlo_device, vdev);
}

/* All rings are VERSION_1's: little-endian. */
static inline u16 vlo_get16(__virtio16 value)
{
	return le16_to_cpu((__force __le16)value);
}

static inline u32 vlo_get32(__virtio32 value)
{
	return le32_to_cpu((__force __le32)value);
}

static inline u64 vlo_get64(__virtio64 value)
{
	return le64_to_cpu((__force __le64)value);
}

static inline __virtio16 vlo_put16(u16 value)
{
	return (__force __virtio16)cpu_to_le16(value);
}

static inline __virtio32 vlo_put32(u32 value)
{
	return (__force __virtio32)cpu_to_le32(value);
}

static inline __virtio64 vlo_put64(u64 value)
{
	return (__force __virtio64)cpu_to_le64(value);
}

static inline bool vlo_is_direct(const struct vlo_device *device)
{
	return device->flags & VLO_F_DIRECT;
}

/* main.c */
extern struct workqueue_struct *vlo_wq, *vlo_rescue_wq, *vlo_io_wq;
extern unsigned int vlo_inline_bytes;

/* device.c: the life of a device */
extern struct mutex vlo_list_lock;
extern struct list_head vlo_list;
int vlo_device_create(struct vlo_handle *handle, const struct vlo_create *create);
int vlo_device_attach(struct vlo_handle *handle, const char *name);
void vlo_device_release(struct vlo_handle *handle);
void vlo_device_remove(struct vlo_device *device);
void vlo_kill(struct vlo_device *device, const char *why);
void vlo_device_exit(void);

/* transport.c: the device as virtio drivers see it */
extern const struct virtio_config_ops vlo_config_ops;
void vlo_post(struct vlo_device *device, u32 events);

/* session.c: sessions, and their memory */
int vlo_session_start(struct vlo_device *device, struct vlo_session *session);
void vlo_session_end(struct vlo_device *device);
u32 vlo_pool_take(struct vlo_pool *pool, u32 pages);
void vlo_pool_give(struct vlo_pool *pool, u32 page, u32 pages);

/* queue.c: requests from ring to ring */
int vlo_queue_show(struct vlo_vq *queue, struct virtqueue *vq);
void vlo_queue_forget(struct vlo_vq *queue);
void vlo_queue_pause(struct vlo_vq *queue);
void vlo_queue_resume(struct vlo_vq *queue);
void vlo_queue_harvest(struct vlo_vq *queue);
u32 vlo_queue_replay(struct vlo_vq *queue);
u32 vlo_queue_fail(struct vlo_vq *queue);
void vlo_pump(struct vlo_vq *queue);
void vlo_reap(struct vlo_vq *queue);
void vlo_pump_work(struct work_struct *work);
void vlo_reap_work(struct work_struct *work);

/* ring.c: the device's ring */
struct vlo_emit {
	struct vlo_ring *ring;
	struct vring_desc *table;	/* an indirect table, or NULL */
	u16 first;			/* where the chain begins */
	u16 count;			/* descriptors so far, in ring or table */
	__le16 first_flags;		/* packed: of the first, which is written last */
};

size_t vlo_ring_bytes(u32 size);
void vlo_ring_init(struct vlo_ring *ring, void *place, u64 address, u32 size, u64 features,
		   u16 used);
void vlo_ring_begin(struct vlo_emit *emit, struct vlo_ring *ring, u16 head);
void vlo_ring_put_packed(struct vlo_emit *emit, u64 address, u32 size, u16 flags);
void vlo_ring_end(struct vlo_emit *emit, u16 head);
void vlo_ring_publish(struct vlo_ring *ring);
bool vlo_ring_wants_kick(struct vlo_ring *ring);
bool vlo_ring_peek(struct vlo_ring *ring, u32 sent, u32 *id, u32 *used);
void vlo_ring_advance(struct vlo_ring *ring, u16 count);
bool vlo_ring_arm(struct vlo_ring *ring, u16 ahead);

/*
 * vlo_ring_put() - the next descriptor of a request.
 * @index, @next: where the driver's ring has it and the one after it; for split rings.
 * @flags: VRING_DESC_F_*.
 */
static inline void vlo_ring_put(struct vlo_emit *emit, u16 index, u16 next, u64 address, u32 size,
				u16 flags)
{
	struct vring_desc *desc;

	if (emit->ring->is_packed) {
		vlo_ring_put_packed(emit, address, size, flags);
		return;
	}
	if (emit->table) {
		desc = &emit->table[emit->count];
		next = emit->count + 1;
	} else {
		desc = &emit->ring->desc[index];
	}
	desc->addr = vlo_put64(address);
	desc->len = vlo_put32(size);
	desc->flags = vlo_put16(flags);
	desc->next = vlo_put16(next);
	emit->count++;
}

/* bounce.c: buffers */
#define VLO_PARTS	4	/* buffers that are remembered between two looks at a chain */

struct vlo_part {
	void *origin;			/* the driver's buffer */
	u32 size;
	u16 flags, index, next;		/* of the descriptor, and where the driver's table has it */
};

struct vlo_shape {
	struct vlo_part parts[VLO_PARTS + 1];
	u32 count;
	bool is_indirect;
	u32 table, small;		/* where they begin in the place */
	u32 bytes;			/* of the place */
	u32 out_bytes, in_bytes;
};

int vlo_measure(struct vlo_vq *queue, u16 head, struct vlo_shape *shape);
int vlo_place(struct vlo_vq *queue, u16 head, const struct vlo_shape *shape);
void vlo_gather(struct vlo_vq *queue, u16 head, void *bytes);
int vlo_place_bytes(struct vlo_vq *queue, u16 head, const void *bytes, u32 size);
u32 vlo_take_back(struct vlo_vq *queue, u16 head, u32 used);
void vlo_unplace(struct vlo_vq *queue, u16 head);
void vlo_poison(struct vlo_vq *queue, u16 head);

/* early.c: queues whose driver busy-waits */
int vlo_early_make(struct vlo_vq *queue, u32 size);
void vlo_early_free(struct vlo_vq *queue);
void vlo_early_take(struct vlo_vq *queue, u16 head);
bool vlo_early_send(struct vlo_vq *queue);
void vlo_early_done(struct vlo_vq *queue, u16 slot);
u32 vlo_early_replay(struct vlo_vq *queue);

/* event.c: kick and call */
void vlo_kick(struct vlo_vq *queue, unsigned long flags);
void vlo_event_init(struct vlo_vq *queue);
void vlo_kick_set(struct vlo_vq *queue, struct eventfd_ctx *kick);
int vlo_call_set(struct vlo_vq *queue, struct file *file);
void vlo_call_drop(struct vlo_vq *queue);

/* ram.c: the host's RAM as a file */
struct file *vlo_ram_create(void);
void vlo_ram_revoke(struct file *file);
u64 vlo_ram_size(struct file *file);
int vlo_ram_init(void);
void vlo_ram_exit(void);

/* pm.c: suspend */
int vlo_pm_init(void);
void vlo_pm_exit(void);

/* policy.c: who may do what */
int vlo_may_create(const struct vlo_create *create);
int vlo_may_attach(const struct vlo_device *device);
int vlo_may_use(const struct vlo_device *device);
int vlo_may_have_more(void);
int vlo_pool_charge(struct vlo_pool *pool);
void vlo_pool_uncharge(struct vlo_pool *pool);

/* chardev.c: /dev/virtio-loopback */
int vlo_chardev_init(void);
void vlo_chardev_exit(void);

/* debugfs.c */
void vlo_debugfs_init(void);
void vlo_debugfs_exit(void);
void vlo_debugfs_add(struct vlo_device *device);
void vlo_debugfs_remove(struct vlo_device *device);

#endif /* VLO_H */
