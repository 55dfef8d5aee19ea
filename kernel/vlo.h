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

/* Bytes that a thread copies back before the driver hears of them. */
#define VLO_TELL_BYTES		(256 * 1024)

/* Features of the device's ring that the module can serve. */
#define VLO_RING_FEATURES	(BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) | \
				 BIT_ULL(VIRTIO_RING_F_EVENT_IDX) | \
				 BIT_ULL(VIRTIO_F_RING_PACKED))

struct vlo_device;
struct vlo_vq;

/**
 * struct vlo_pool - the memory of a session: rings, then frames, then pages for all
 * @file: shared memory, which the back end maps
 * @ram: with VLO_F_DIRECT, the host's RAM, until the session ends
 * @pages: its pages
 * @page_count: how many
 * @room: how many of them are behind rings and frames
 * @base: the pages in a row, for the kernel
 * @address: guest address of the first byte
 * @charged: the address space whose locked memory it counts as
 * @key: of the marks, see bounce.c
 * @lock: guards @map and @hint
 * @map: a bit for each page that is in use
 * @hint: where to look for free pages first
 */
struct vlo_pool {
	struct file *file;
	struct file *ram;
	struct page **pages;
	u32 page_count;
	u32 room;
	void *base;
	u64 address;
	struct mm_struct *charged;
	u64 key[2];

	spinlock_t lock;		/* map, hint */
	unsigned long *map;
	u32 hint;
};

/**
 * struct vlo_ring - the device's ring, as its driver sees it; see ring.c
 * @is_active: the back end is heard
 * @is_packed: the layout
 * @has_event_idx: the back end has EVENT_IDX
 * @size: entries
 * @desc: split: the descriptor area
 * @avail: split: the driver area
 * @used: split: the device area
 * @slots: packed: the descriptor area
 * @driver_event: packed: the driver area
 * @device_event: packed: the device area
 * @descriptor: guest address of the descriptor area
 * @driver: guest address of the driver area
 * @device: guest address of the device area
 * @base: where the back end starts, as SET_VRING_BASE has it
 * @avail_next: where the next request goes
 * @avail_kicked: @avail_next at the last look at the device's wishes
 * @avail_wrap: packed: the wrap counter there
 * @used_next: where the next used entry comes
 * @used_wrap: packed: the wrap counter there
 */
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
	u64 descriptor, driver, device;
	u32 base;
	/* avail_lock */
	u16 avail_next;
	u16 avail_kicked;
	bool avail_wrap;
	/* used_lock */
	u16 used_next;
	bool used_wrap;
};

/**
 * enum vlo_state - state of a request
 * @VLO_IDLE: not placed by the driver, or completed
 * @VLO_PREPARED: to be placed: again, or from a slot (early.c)
 * @VLO_SENT: in the device's ring
 */
enum vlo_state {
	VLO_IDLE,
	VLO_PREPARED,
	VLO_SENT,
};

#define VLO_IN_PARTS	2	/* buffers to write into that are remembered until the end */

/**
 * struct vlo_in - a buffer for the device to write into
 * @origin: the driver's buffer
 * @at: where the buffer lies in the place of its request
 * @size: bytes
 */
struct vlo_in {
	void *origin;
	u32 at, size;
};

/**
 * struct vlo_request - a request that the driver has placed, by its head in the driver's ring
 * @serial: order of placing
 * @seed: of the marks in its buffers
 * @page: first page of its place in the pool
 * @pages: pages that it has taken; 0: it lies in its frame, or has no place
 * @small: where small buffers begin in its place, see bounce.c
 * @in_bytes: bytes that the device may write
 * @in_count: buffers that the device may write into
 * @in: the first of these buffers
 * @count: descriptors in the device's ring
 * @state: enum vlo_state; the two halves hand it over
 */
struct vlo_request {
	u64 serial;
	u64 seed;
	u32 page, pages;
	u32 small;
	u32 in_bytes;
	u32 in_count;
	struct vlo_in in[VLO_IN_PARTS];
	u16 count;
	u8 state;
};

#define VLO_PARTS	4	/* buffers that are remembered between two looks at a chain */

/**
 * struct vlo_part - a buffer of a request
 * @origin: the driver's buffer
 * @size: bytes
 * @flags: of the descriptor
 * @index: where the driver's table has the descriptor
 * @next: where the driver's table has the next one
 */
struct vlo_part {
	void *origin;
	u32 size;
	u16 flags, index, next;
};

/**
 * struct vlo_shape - what a request is like
 * @parts: its first buffers; the last entry is scratch
 * @count: buffers in all
 * @is_indirect: the driver uses an indirect table
 * @table: where an indirect table begins in the place
 * @small: where small buffers begin in the place
 * @bytes: bytes of the place
 * @out_bytes: bytes that the driver sends
 * @in_bytes: bytes that the device may write
 */
struct vlo_shape {
	struct vlo_part parts[VLO_PARTS + 1];
	u32 count;
	bool is_indirect;
	u32 table, small;
	u32 bytes;
	u32 out_bytes, in_bytes;
};

/**
 * struct vlo_call - the entry in the wait queue of a call eventfd
 * @queue: the queue
 * @eventfd: the eventfd
 * @wait: the entry
 * @table: adds the entry
 */
struct vlo_call {
	struct vlo_vq *queue;
	struct eventfd_ctx *eventfd;
	wait_queue_entry_t wait;
	poll_table table;
};

/**
 * struct vlo_counters - what a queue did; debugfs shows it
 * @forwarded: requests placed in the device's ring
 * @completed: requests that the back end completed
 * @failed: requests that the module failed
 * @dropped: requests of a VLO_Q_EARLY queue that found no room
 * @replayed: requests placed again in a later session
 * @out_bytes: bytes copied to the back end
 * @in_bytes: bytes copied from the back end
 * @kicks: kicks signalled
 * @interrupts: callbacks of the driver
 * @starved: waits for a pool that was full
 * @overstated: lengths that the back end claimed and had not written
 * @broken: sessions that the back end broke here
 */
struct vlo_counters {
	u64 forwarded, completed, failed, dropped, replayed;
	u64 out_bytes, in_bytes;
	u64 kicks, interrupts, starved, overstated, broken;
};

/* Bits of vlo_vq.bits */
#define VLO_INTERRUPT_DUE	0	/* completions that the driver was not told of */
#define VLO_STARVED		1	/* requests wait for room in the pool */
#define VLO_BREAK_UNTOLD	2	/* a broken ring that the log does not tell of yet */

/**
 * struct vlo_vq - a queue
 * @device: its device
 * @index: its number
 * @flags: VLO_Q_*
 * @bits: VLO_INTERRUPT_DUE, VLO_STARVED, VLO_BREAK_UNTOLD
 * @is_ready: the driver has made it
 * @vq: the driver's virtqueue
 * @vring: the driver's ring
 * @size: entries of it
 * @requests: by head
 * @replay: heads to place before new ones, oldest first
 * @pool: memory of the present session; NULL: the queue is not in it
 * @ring: the device's ring
 * @frames: first page of the frames; 0: none
 * @early: with VLO_Q_EARLY: see early.c
 * @avail_lock: guards the avail half
 * @avail_paused: the avail half does not run
 * @avail_threaded: pump_work goes on with the avail half, and nothing else does
 * @avail_next: next entry of the driver's available ring
 * @replay_at: first entry of @replay that is still to go
 * @replay_count: entries of @replay
 * @serial: of the last request
 * @shape: of the request that is being forwarded; not on the stack, which compilers clear each time
 * @kick: the eventfd of the back end, or NULL
 * @used_lock: guards the used half
 * @used_paused: the used half does not run
 * @used_threaded: reap_work goes on with the used half, and nothing else does
 * @used_next: next entry of the driver's used ring
 * @broken_id: what the back end used that made no sense
 * @sent: requests in the device's ring
 * @call: the call eventfd, or NULL
 * @call_work: runs vlo_reap() and the driver's callback
 * @kick_work: a kick that had to wait
 * @call_timer: looks for used entries that were left without a call
 * @pump_work: the avail half in a thread
 * @reap_work: the used half in a thread
 * @counters: what it did
 */
struct vlo_vq {
	struct vlo_device *device;
	u32 index;
	u8 flags;
	unsigned long bits;

	/* device->lock; and what runs the queue, while it is not paused */
	bool is_ready;
	struct virtqueue *vq;
	struct vring vring;
	u32 size;
	struct vlo_request *requests;
	u16 *replay;
	struct vlo_pool *pool;
	struct vlo_ring ring;
	u32 frames;
	struct vlo_early *early;

	spinlock_t avail_lock ____cacheline_aligned_in_smp;
	bool avail_paused;
	bool avail_threaded;
	u16 avail_next;
	u16 replay_at, replay_count;
	u64 serial;
	struct vlo_shape shape;
	struct eventfd_ctx *kick;

	spinlock_t used_lock ____cacheline_aligned_in_smp;
	bool used_paused;
	bool used_threaded;
	u16 used_next;
	u32 broken_id;

	atomic_t sent;
	struct vlo_call *call;		/* device->lock */
	struct irq_work call_work;
	struct irq_work kick_work;
	struct hrtimer call_timer;
	struct work_struct pump_work;
	struct work_struct reap_work;
	struct vlo_counters counters;
};

/**
 * struct vlo_device - a device
 * @vdev: the device for the driver core
 * @refs: see the top
 * @list: entry in vlo_list
 * @parent: the platform device above @vdev
 * @debugfs: its file in debugfs
 * @name: unique
 * @id: number of the platform device + 1; 0: none
 * @flags: VLO_F_*
 * @queue_count: number of @queues
 * @config_size: bytes of @config in use
 * @takeover_ms: as at creation
 * @stop_ms: as at creation
 * @call_us: as at creation
 * @features: offered to the driver
 * @pool_size: bytes of a session's memory
 * @queue_sizes: as at creation
 * @uid: the user who created it, see policy.c
 * @user_ns: the user namespace of that user
 * @owner: the open file of its adapter, or NULL
 * @condemned: it cannot be taken over any more
 * @lock: see the top
 * @queues: its queues
 * @pool: of the present session; NULL: none
 * @session: number of the present session, or of the last one
 * @state_lock: see the top
 * @status: device status, as the driver wrote it
 * @events: VLO_EVENT_* that the adapter has not read
 * @sequence: number of the last event that wants VLO_ACK
 * @acked: number of the last one acknowledged; if it differs, the driver waits
 * @generation: of config space
 * @config: config space
 * @wait: adapters and drivers that wait
 * @dead: set once, by vlo_kill()
 * @gone: set once, at the end of vlo_remove_work()
 * @known: the driver core knows @vdev: its locks are there
 * @registered: @vdev is registered; set by register_work, read by remove_work
 * @removing: bit 0: remove_work has begun
 * @register_work: registers @vdev
 * @remove_work: removes it
 * @free_work: frees the device
 * @fail_work: ends the session of a dead device
 * @orphan_work: kills a device that no adapter took over in time
 */
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
	kuid_t uid;
	struct user_namespace *user_ns;

	/* vlo_list_lock */
	struct vlo_handle *owner;
	bool condemned;

	struct mutex lock;		/* see the top */
	struct vlo_vq *queues;
	struct vlo_pool *pool;
	u32 session;

	spinlock_t state_lock;		/* see the top */
	u8 status;
	u32 events, sequence, acked;
	u32 generation;
	u8 config[VLO_CONFIG_SIZE_MAX];
	wait_queue_head_t wait;

	bool dead;
	bool gone;
	bool known;
	bool registered;
	unsigned long removing;
	struct work_struct register_work, remove_work, free_work, fail_work;
	struct delayed_work orphan_work;
};

/**
 * struct vlo_handle - an open file
 * @lock: held to set @device
 * @device: set once, and stays
 * @process: the adapter that has set @device
 */
struct vlo_handle {
	struct mutex lock;		/* setting device */
	struct vlo_device *device;
	struct pid *process;
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

/**
 * struct vlo_emit - a request on its way into the device's ring
 * @ring: the ring
 * @table: an indirect table, or NULL
 * @first: where the chain begins
 * @count: descriptors so far, in ring or table
 * @first_flags: packed: flags of the first descriptor, which are written last
 */
struct vlo_emit {
	struct vlo_ring *ring;
	struct vring_desc *table;
	u16 first;
	u16 count;
	__le16 first_flags;
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
u16 vlo_ring_unseen(struct vlo_ring *ring);
void vlo_ring_wishes(const struct vlo_ring *ring, u16 *kick_at, u16 *call_at);
void vlo_ring_advance(struct vlo_ring *ring, u16 count);
bool vlo_ring_arm(struct vlo_ring *ring, u16 ahead);

/**
 * vlo_ring_put() - the next descriptor of a request
 * @emit: the request
 * @index: split: where the driver's ring has the descriptor
 * @next: split: where the driver's ring has the one after it
 * @address: guest address of the buffer
 * @size: bytes of the buffer
 * @flags: VRING_DESC_F_*
 *
 * Context: By the owner of the avail half.
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
