// SPDX-License-Identifier: GPL-2.0
/*
 * virtio-loopback: a virtio transport whose device is a process.
 *
 * The kernel's own virtio drivers meet a vhost-user back end without a hypervisor. An adapter
 * creates devices through /dev/virtio-loopback and tells the back end about rings and memory; from
 * then on a kick is the back end's eventfd and a call is consumed here: no request passes the
 * adapter. Features, status and config space are kept here, so nothing but a reset waits for it.
 *
 *   driver -- notify --> eventfd (kick) --> back end --> eventfd (call) --> irq_work --> driver
 *      '-- rings and buffers: the pool (bounced), or all RAM (VLO_F_DIRECT) --'
 *
 * Life of a device, and who holds a reference to it:
 *
 *   VLO_CREATE --> registered <--> orphan (no adapter; for takeover_ms) --> dead --> removed
 *                      '-- VLO_REMOVE --> removed
 *
 * "Dead" is final: the memory is taken from the back end first, then every outstanding request is
 * completed as failed, and again until the driver has let go. References: the open file, the
 * virtio device (until its release), and the list of devices (until removal is through).
 *
 * Locks, outermost first:
 *   vlo_list_lock      the list of devices; owner and condemned of each
 *   device->lock       queues as the driver has set them up (vq, addresses), calls, the stash
 *   region->lock       revocation against page faults; taken under mmap_lock, nothing inside
 *   device->state_lock events, sequence numbers, config space; a spinlock, interrupts off, leaf
 *   queue->lock        vq and kick; a spinlock, interrupts off: notify may come from anywhere.
 *                      The wait queue of the kick eventfd nests inside.
 * The wait queue of a call eventfd is held around vlo_call_wake(), which takes none of these.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/ctype.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/genalloc.h>
#include <linux/idr.h>
#include <linux/ioport.h>
#include <linux/irq_work.h>
#include <linux/kref.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/platform_device.h>
#include <linux/poll.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include "virtio_loopback.h"

/*
 * How the driver's buffers are mapped: by the virtio device's own operations (newer kernels: see
 * Kbuild), by those of its parent's DMA, or, where the architecture has no such thing, not at all.
 */
#if !defined(VLO_VIRTIO_MAP) && defined(CONFIG_ARCH_HAS_DMA_OPS)
#define VLO_DMA_OPS
#include <linux/dma-map-ops.h>
#endif

#ifdef CONFIG_HIGHMEM
#error "virtio_loopback needs all memory in the kernel's own mapping (a 64-bit kernel)"
#endif

/* Guest addresses: no RAM is at the first; RAM is at the second plus its physical address. */
#define VLO_POOL_ADDRESS	BIT_ULL(46)
#if defined(VLO_VIRTIO_MAP) || defined(VLO_DMA_OPS)
#define VLO_RAM_ADDRESS		BIT_ULL(47)
#else
#define VLO_RAM_ADDRESS		0ULL
#endif

#define VLO_GRANULE_SHIFT	9	/* buffers in the pool start at multiples of 512 bytes */
#define VLO_MAPPING_MAX		SZ_256K
#define VLO_DEVICES_MAX		256
#define VLO_FLAGS		(VLO_F_DIRECT | VLO_F_CONFIG_WAIT)
#define VLO_ACK_JIFFIES		(10 * HZ)
#define VLO_FAIL_JIFFIES	(HZ / 20)
#define VLO_FAULT_AROUND	16	/* pages of RAM mapped at a time */

/* Of the features between 28 and 41, those that this transport and vhost-user carry. */
#define VLO_TRANSPORT_FEATURES	(BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) | \
				 BIT_ULL(VIRTIO_RING_F_EVENT_IDX) | \
				 BIT_ULL(VIRTIO_F_VERSION_1) | \
				 BIT_ULL(VIRTIO_F_RING_PACKED) | \
				 BIT_ULL(VIRTIO_F_ORDER_PLATFORM) | \
				 BIT_ULL(VIRTIO_F_RING_RESET))
#define VLO_FEATURES		(VLO_TRANSPORT_FEATURES | \
				 ~GENMASK_ULL(VIRTIO_TRANSPORT_F_END - 1, VIRTIO_TRANSPORT_F_START))

/* Memory that user space can map. It lives as long as its file. */
struct vlo_region {
	struct rw_semaphore lock;	/* revoked, guarded, and mapping a page by them */
	bool revoked;
	unsigned long *guarded;		/* pool: a bit for each page that is not to be written */
	struct page *dummy;		/* shown instead, once revoked */
	void *pool;			/* NULL: the host's RAM */
	u64 size;
};

/* A bounced buffer, at the first of its granules; size 0: none starts here. */
struct vlo_slot {
	void *origin;
	u32 size;
	u32 direction;
};

struct vlo_call {
	struct vlo_vq *queue;
	struct eventfd_ctx *eventfd;
	wait_queue_entry_t wait;
	poll_table table;
};

struct vlo_vq {
	struct vlo_device *device;
	spinlock_t lock;		/* vq, kick */
	struct virtqueue *vq;
	struct eventfd_ctx *kick;
	struct vlo_call *call;		/* device->lock */
	struct irq_work call_work;
	struct irq_work kick_work;
	bool drained;			/* call_work: the driver had taken all used entries */
	/* device->lock: what VLO_GET_QUEUE tells */
	bool ready;
	u32 size;
	u64 descriptor, driver, used;
	size_t guarded;			/* bytes from descriptor on that the device cannot write */
};

struct vlo_device {
	struct virtio_device vdev;
	struct kref refs;
	struct list_head list;
	struct platform_device *parent;
	char name[VLO_NAME_SIZE];
	u32 id;
	u32 flags, queue_count, config_size, takeover_ms;
	u64 features;
	u16 queue_sizes[VLO_QUEUES_MAX];

	/* vlo_list_lock */
	struct vlo_handle *owner;
	bool condemned;			/* nobody can take it over any more */

	struct file *memory[2];		/* the pool, and RAM if it is direct */
	void *pool;
	u64 pool_size;
	struct gen_pool *allocator;
	struct vlo_slot *slots;
	bool failing;			/* whatever is unmapped was not served */

	struct mutex lock;		/* see the top */
	struct vlo_vq *queues;
	struct file *stash;
	u32 stash_note_size;
	u8 stash_note[VLO_STASH_NOTE_SIZE];

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
	struct work_struct register_work, remove_work, free_work;
	struct delayed_work orphan_work, fail_work;
};

/* An open file. Its device is set once and stays. */
struct vlo_handle {
	struct mutex lock;		/* setting device */
	struct vlo_device *device;
};

static DEFINE_MUTEX(vlo_list_lock);
static LIST_HEAD(vlo_list);
static DEFINE_IDA(vlo_ids);

/* Drivers are bound and unbound here: they wait for much, memory included. */
static struct workqueue_struct *vlo_wq;
/* This one ends waiting, also that for memory which is written back to a dead device. */
static struct workqueue_struct *vlo_rescue_wq;

static void vlo_kill(struct vlo_device *device, const char *why);

static struct vlo_device *to_vlo(struct virtio_device *vdev)
{
	return container_of(vdev, struct vlo_device, vdev);
}

/* ---- memory that user space maps ---- */

static vm_fault_t vlo_region_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct vlo_region *region = vma->vm_private_data;
	unsigned long address = vmf->address & PAGE_MASK;
	unsigned long count, pfn = vmf->pgoff;
	vm_fault_t result;

	/* Inside the lock up to the page table: whoever revokes finds what was mapped before. */
	guard(rwsem_read)(&region->lock);
	if ((u64)vmf->pgoff << PAGE_SHIFT >= region->size)
		return VM_FAULT_SIGBUS;
	if (region->pool) {
		if (region->revoked)
			return vmf_insert_page(vma, address, region->dummy);
		return vmf_insert_page(vma, address,
				       vmalloc_to_page(region->pool + (pfn << PAGE_SHIFT)));
	}
	if (region->revoked)
		return vmf_insert_pfn(vma, address, page_to_pfn(region->dummy));
	/* Holes between banks of RAM, and what firmware or devices have, are not for sharing. */
	if (!page_is_ram(pfn))
		return VM_FAULT_SIGBUS;
	result = vmf_insert_pfn(vma, address, pfn);
	for (count = 1; count < VLO_FAULT_AROUND && result == VM_FAULT_NOPAGE; count++) {
		address += PAGE_SIZE;
		pfn++;
		if (address >= vma->vm_end || (u64)pfn << PAGE_SHIFT >= region->size ||
		    !page_is_ram(pfn) || vmf_insert_pfn(vma, address, pfn) != VM_FAULT_NOPAGE)
			break;
	}
	return result;
}

/* The first write to a page of the pool. */
static vm_fault_t vlo_pool_mkwrite(struct vm_fault *vmf)
{
	struct vlo_region *region = vmf->vma->vm_private_data;

	guard(rwsem_read)(&region->lock);
	if (!region->revoked && test_bit(vmf->pgoff, region->guarded))
		return VM_FAULT_SIGBUS;
	lock_page(vmf->page);
	return VM_FAULT_LOCKED;
}

static const struct vm_operations_struct vlo_pool_vm_ops = {
	.fault = vlo_region_fault,
	.page_mkwrite = vlo_pool_mkwrite,
};

static const struct vm_operations_struct vlo_ram_vm_ops = {
	.fault = vlo_region_fault,
};

static int vlo_region_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct vlo_region *region = file->private_data;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP |
		     (region->pool ? VM_MIXEDMAP : VM_PFNMAP | VM_IO));
	vma->vm_private_data = region;
	vma->vm_ops = region->pool ? &vlo_pool_vm_ops : &vlo_ram_vm_ops;
	return 0;
}

/* Back ends ask for the size of a file before they map it. */
static loff_t vlo_region_llseek(struct file *file, loff_t offset, int whence)
{
	struct vlo_region *region = file->private_data;

	return fixed_size_llseek(file, offset, whence, region->size);
}

static int vlo_region_release(struct inode *inode, struct file *file)
{
	struct vlo_region *region = file->private_data;

	vfree(region->pool);
	bitmap_free(region->guarded);
	__free_page(region->dummy);
	kfree(region);
	return 0;
}

static const struct file_operations vlo_region_fops = {
	.owner = THIS_MODULE,
	.mmap = vlo_region_mmap,
	.llseek = vlo_region_llseek,
	.release = vlo_region_release,
};

/* Takes the pool over if it succeeds. */
static struct file *vlo_region_create(void *pool, u64 size)
{
	struct vlo_region *region = kzalloc(sizeof(*region), GFP_KERNEL);
	struct file *file;

	if (!region)
		return ERR_PTR(-ENOMEM);
	init_rwsem(&region->lock);
	region->size = size;
	region->dummy = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (pool)
		region->guarded = bitmap_zalloc(size >> PAGE_SHIFT, GFP_KERNEL);
	if (!region->dummy || (pool && !region->guarded)) {
		file = ERR_PTR(-ENOMEM);
		goto fail;
	}
	/* An inode of its own: it has a size, and what maps it can be found. */
	file = anon_inode_create_getfile("[virtio-loopback]", &vlo_region_fops, region, O_RDWR,
					 NULL);
	if (IS_ERR(file))
		goto fail;
	file->f_mode |= FMODE_LSEEK;
	i_size_write(file_inode(file), size);
	region->pool = pool;
	return file;
fail:
	bitmap_free(region->guarded);
	if (region->dummy)
		__free_page(region->dummy);
	kfree(region);
	return file;
}

/* Has pages of the pool written by nobody but the kernel, or by anybody again. */
static void vlo_region_guard(struct file *file, size_t start, size_t size, bool is_guarded)
{
	struct vlo_region *region = file->private_data;

	down_write(&region->lock);
	if (is_guarded)
		bitmap_set(region->guarded, start >> PAGE_SHIFT, size >> PAGE_SHIFT);
	else
		bitmap_clear(region->guarded, start >> PAGE_SHIFT, size >> PAGE_SHIFT);
	up_write(&region->lock);
	if (is_guarded)
		unmap_mapping_range(file->f_mapping, start, size, 1);
}

/* Nobody sees the memory any more: all mappings show one page of nothing, now and later. */
static void vlo_region_revoke(struct file *file)
{
	struct vlo_region *region = file->private_data;

	down_write(&region->lock);
	region->revoked = true;
	up_write(&region->lock);
	unmap_mapping_range(file->f_mapping, 0, 0, 1);
}

/* ---- the driver's buffers ---- */

static bool vlo_in_pool(struct vlo_device *device, u64 address)
{
	return address >= VLO_POOL_ADDRESS && address < VLO_POOL_ADDRESS + device->pool_size;
}

/* The last byte of what a device may write is where drivers look for a status. */
static void vlo_poison(void *origin, size_t size)
{
	((u8 *)origin)[size - 1] = 0xff;
}

#if defined(VLO_VIRTIO_MAP) || defined(VLO_DMA_OPS)

static dma_addr_t vlo_map(struct vlo_device *device, struct page *page, unsigned long offset,
			  size_t size, enum dma_data_direction direction, unsigned long attrs)
{
	void *origin = page_address(page) + offset;
	struct vlo_slot *slot;
	unsigned long place;
	size_t inner;

	if (device->flags & VLO_F_DIRECT)
		return VLO_RAM_ADDRESS + page_to_phys(page) + offset;
	if (!size || size > VLO_MAPPING_MAX)
		return DMA_MAPPING_ERROR;
	place = gen_pool_alloc(device->allocator, size);
	if (!place)
		return DMA_MAPPING_ERROR;
	inner = place - (unsigned long)device->pool;
	slot = &device->slots[inner >> VLO_GRANULE_SHIFT];
	slot->origin = origin;
	slot->direction = direction;
	WRITE_ONCE(slot->size, size);
	if (direction != DMA_FROM_DEVICE && !(attrs & DMA_ATTR_SKIP_CPU_SYNC))
		memcpy((void *)place, origin, size);
	return VLO_POOL_ADDRESS + inner;
}

static void vlo_unmap(struct vlo_device *device, dma_addr_t address, size_t size,
		      enum dma_data_direction direction, unsigned long attrs)
{
	bool is_for_cpu = direction != DMA_TO_DEVICE && !(attrs & DMA_ATTR_SKIP_CPU_SYNC);
	size_t inner = address - VLO_POOL_ADDRESS;
	struct vlo_slot *slot;

	if (!vlo_in_pool(device, address)) {
		if (is_for_cpu && unlikely(READ_ONCE(device->failing)))
			vlo_poison(phys_to_virt(address - VLO_RAM_ADDRESS), size);
		return;
	}
	slot = &device->slots[inner >> VLO_GRANULE_SHIFT];
	if (slot->size != size) {
		pr_err_once("a buffer was unmapped that was not mapped\n");
		return;
	}
	if (is_for_cpu) {
		if (unlikely(READ_ONCE(device->failing)))
			vlo_poison(slot->origin, size);
		else
			memcpy(slot->origin, device->pool + inner, size);
	}
	WRITE_ONCE(slot->size, 0);
	gen_pool_free(device->allocator, (unsigned long)device->pool + inner, size);
}

/* Copies a part of a bounced buffer. The part may start anywhere in it. */
static void vlo_sync(struct vlo_device *device, dma_addr_t address, size_t size, bool to_device)
{
	size_t inner = address - VLO_POOL_ADDRESS;
	size_t last = inner >> VLO_GRANULE_SHIFT;
	size_t first = last - min_t(size_t, last, VLO_MAPPING_MAX >> VLO_GRANULE_SHIFT);
	size_t offset, at = last;
	void *origin;

	if (!vlo_in_pool(device, address))
		return;
	while (!READ_ONCE(device->slots[at].size) && at > first)
		at--;
	offset = inner - (at << VLO_GRANULE_SHIFT);
	if (offset > device->slots[at].size || size > device->slots[at].size - offset)
		return;
	origin = device->slots[at].origin + offset;
	if (to_device)
		memcpy(device->pool + inner, origin, size);
	else if (!READ_ONCE(device->failing))
		memcpy(origin, device->pool + inner, size);
}

static void *vlo_alloc(struct vlo_device *device, size_t size, dma_addr_t *address)
{
	struct genpool_data_align align = { .align = PAGE_SIZE };
	unsigned long place;

	place = gen_pool_alloc_algo(device->allocator, size, gen_pool_first_fit_align, &align);
	if (!place)
		return NULL;
	memset((void *)place, 0, size);
	*address = VLO_POOL_ADDRESS + (place - (unsigned long)device->pool);
	return (void *)place;
}

static void vlo_free(struct vlo_device *device, size_t size, void *place)
{
	gen_pool_free(device->allocator, (unsigned long)place, size);
}

static size_t vlo_mapping_max(struct vlo_device *device)
{
	return device->flags & VLO_F_DIRECT ? SIZE_MAX : VLO_MAPPING_MAX;
}

#endif

#ifdef VLO_VIRTIO_MAP

/* union virtio_map knows two kinds of owners; a module that is none of them borrows the second. */
static struct vlo_device *vlo_map_device(union virtio_map map)
{
	return (struct vlo_device *)map.group;
}

static dma_addr_t vlo_map_page(union virtio_map map, struct page *page, unsigned long offset,
			       size_t size, enum dma_data_direction direction,
			       unsigned long attrs)
{
	return vlo_map(vlo_map_device(map), page, offset, size, direction, attrs);
}

static void vlo_unmap_page(union virtio_map map, dma_addr_t address, size_t size,
			   enum dma_data_direction direction, unsigned long attrs)
{
	vlo_unmap(vlo_map_device(map), address, size, direction, attrs);
}

static void vlo_sync_for_cpu(union virtio_map map, dma_addr_t address, size_t size,
			     enum dma_data_direction direction)
{
	if (direction != DMA_TO_DEVICE)
		vlo_sync(vlo_map_device(map), address, size, false);
}

static void vlo_sync_for_device(union virtio_map map, dma_addr_t address, size_t size,
				enum dma_data_direction direction)
{
	if (direction != DMA_FROM_DEVICE)
		vlo_sync(vlo_map_device(map), address, size, true);
}

static void *vlo_alloc_coherent(union virtio_map map, size_t size, dma_addr_t *address, gfp_t gfp)
{
	return vlo_alloc(vlo_map_device(map), size, address);
}

static void vlo_free_coherent(union virtio_map map, size_t size, void *place, dma_addr_t address,
			      unsigned long attrs)
{
	vlo_free(vlo_map_device(map), size, place);
}

static bool vlo_need_sync(union virtio_map map, dma_addr_t address)
{
	return vlo_in_pool(vlo_map_device(map), address);
}

static int vlo_mapping_error(union virtio_map map, dma_addr_t address)
{
	return address == DMA_MAPPING_ERROR ? -ENOMEM : 0;
}

static size_t vlo_max_mapping_size(union virtio_map map)
{
	return vlo_mapping_max(vlo_map_device(map));
}

static const struct virtio_map_ops vlo_map_ops = {
	.map_page = vlo_map_page,
	.unmap_page = vlo_unmap_page,
	.sync_single_for_cpu = vlo_sync_for_cpu,
	.sync_single_for_device = vlo_sync_for_device,
	.alloc = vlo_alloc_coherent,
	.free = vlo_free_coherent,
	.need_sync = vlo_need_sync,
	.mapping_error = vlo_mapping_error,
	.max_mapping_size = vlo_max_mapping_size,
};

#elif defined(VLO_DMA_OPS)

static dma_addr_t vlo_map_page(struct device *dev, struct page *page, unsigned long offset,
			       size_t size, enum dma_data_direction direction,
			       unsigned long attrs)
{
	return vlo_map(dev_get_drvdata(dev), page, offset, size, direction, attrs);
}

static void vlo_unmap_page(struct device *dev, dma_addr_t address, size_t size,
			   enum dma_data_direction direction, unsigned long attrs)
{
	vlo_unmap(dev_get_drvdata(dev), address, size, direction, attrs);
}

static void vlo_sync_for_cpu(struct device *dev, dma_addr_t address, size_t size,
			     enum dma_data_direction direction)
{
	if (direction != DMA_TO_DEVICE)
		vlo_sync(dev_get_drvdata(dev), address, size, false);
}

static void vlo_sync_for_device(struct device *dev, dma_addr_t address, size_t size,
				enum dma_data_direction direction)
{
	if (direction != DMA_FROM_DEVICE)
		vlo_sync(dev_get_drvdata(dev), address, size, true);
}

static void *vlo_alloc_coherent(struct device *dev, size_t size, dma_addr_t *address, gfp_t gfp,
				unsigned long attrs)
{
	return vlo_alloc(dev_get_drvdata(dev), size, address);
}

static void vlo_free_coherent(struct device *dev, size_t size, void *place, dma_addr_t address,
			      unsigned long attrs)
{
	vlo_free(dev_get_drvdata(dev), size, place);
}

static size_t vlo_max_mapping_size(struct device *dev)
{
	return vlo_mapping_max(dev_get_drvdata(dev));
}

static const struct dma_map_ops vlo_dma_ops = {
	.map_page = vlo_map_page,
	.unmap_page = vlo_unmap_page,
	.sync_single_for_cpu = vlo_sync_for_cpu,
	.sync_single_for_device = vlo_sync_for_device,
	.alloc = vlo_alloc_coherent,
	.free = vlo_free_coherent,
	.max_mapping_size = vlo_max_mapping_size,
};

#endif

/* ---- what the adapter is told, and waits for ---- */

static void vlo_post(struct vlo_device *device, u32 events)
{
	unsigned long flags;

	spin_lock_irqsave(&device->state_lock, flags);
	device->events |= events;
	spin_unlock_irqrestore(&device->state_lock, flags);
	wake_up_all(&device->wait);
}

static bool vlo_is_acked(struct vlo_device *device, u32 sequence)
{
	return (s32)(READ_ONCE(device->acked) - sequence) >= 0;
}

/* Tells the adapter and waits for its VLO_ACK. False: there is none, or it takes too long. */
static bool vlo_post_and_wait(struct vlo_device *device, u32 events)
{
	unsigned long flags;
	u32 sequence;

	spin_lock_irqsave(&device->state_lock, flags);
	device->events |= events;
	sequence = ++device->sequence;
	spin_unlock_irqrestore(&device->state_lock, flags);
	wake_up_all(&device->wait);
	wait_event_timeout(device->wait, vlo_is_acked(device, sequence) ||
			   READ_ONCE(device->dead) || !READ_ONCE(device->owner), VLO_ACK_JIFFIES);
	return vlo_is_acked(device, sequence);
}

/*
 * Returns when the back end has stopped to use what the driver takes away next. One that does not
 * in time, or that nobody can tell any more, is cut off from the memory.
 */
static void vlo_stop_back_end(struct vlo_device *device, u32 events)
{
	if (!vlo_post_and_wait(device, events))
		vlo_kill(device, "nobody stopped the back end before a reset");
}

/* ---- kick and call ---- */

static void vlo_kick(struct vlo_vq *queue)
{
	unsigned long flags;

	spin_lock_irqsave(&queue->lock, flags);
	if (queue->kick)
		eventfd_signal(queue->kick);
	spin_unlock_irqrestore(&queue->lock, flags);
}

static void vlo_kick_work(struct irq_work *work)
{
	vlo_kick(container_of(work, struct vlo_vq, kick_work));
}

static bool vlo_notify(struct virtqueue *vq)
{
	struct vlo_vq *queue = vq->priv;

	/* To say "false" would break the ring, and a broken one cannot complete its requests. */
	if (unlikely(READ_ONCE(queue->device->dead)))
		mod_delayed_work(vlo_rescue_wq, &queue->device->fail_work, 0);
	else if (unlikely(!eventfd_signal_allowed()))
		irq_work_queue(&queue->kick_work);	/* inside of another eventfd's wake-up */
	else
		vlo_kick(queue);
	return true;
}

static void vlo_interrupt(struct vlo_vq *queue)
{
	struct virtqueue *vq;
	unsigned long flags;

	/* Not held over the callback, which may notify. vlo_forget_vq() waits for this work. */
	spin_lock_irqsave(&queue->lock, flags);
	vq = queue->vq;
	spin_unlock_irqrestore(&queue->lock, flags);
	if (!vq)
		return;
	queue->drained = vring_interrupt(0, vq) == IRQ_NONE;
	if (unlikely(virtqueue_is_broken(vq)) && !READ_ONCE(queue->device->failing))
		vlo_post(queue->device, VLO_EVENT_BROKEN);
}

static void vlo_call_work(struct irq_work *work)
{
	vlo_interrupt(container_of(work, struct vlo_vq, call_work));
}

/* The eventfd was signalled. Its lock is held, interrupts are off. */
static int vlo_call_wake(wait_queue_entry_t *wait, unsigned int mode, int sync, void *key)
{
	struct vlo_call *call = container_of(wait, struct vlo_call, wait);
	u64 count;

	if (!(key_to_poll(key) & EPOLLIN))
		return 0;
	eventfd_ctx_do_read(call->eventfd, &count);
	/*
	 * Drivers expect an interrupt. To call them from here would nest the locks of theirs in
	 * that of the eventfd, and those of eventfds in theirs where they notify.
	 */
	irq_work_queue(&call->queue->call_work);
	return 1;
}

static void vlo_call_table(struct file *file, wait_queue_head_t *head, poll_table *table)
{
	struct vlo_call *call = container_of(table, struct vlo_call, table);

	add_wait_queue_priority(head, &call->wait);
}

/* Under device->lock. Afterwards the eventfd starts nothing any more. */
static void vlo_call_drop(struct vlo_vq *queue)
{
	struct vlo_call *call = queue->call;
	u64 count;

	lockdep_assert_held(&queue->device->lock);
	if (!call)
		return;
	queue->call = NULL;
	eventfd_ctx_remove_wait_queue(call->eventfd, &call->wait, &count);
	/* What was signalled and not yet consumed must reach the driver. */
	if (count)
		irq_work_queue(&queue->call_work);
	irq_work_sync(&queue->call_work);
	eventfd_ctx_put(call->eventfd);
	kfree(call);
}

static void vlo_kick_set(struct vlo_vq *queue, struct eventfd_ctx *kick)
{
	unsigned long flags;

	spin_lock_irqsave(&queue->lock, flags);
	swap(queue->kick, kick);
	spin_unlock_irqrestore(&queue->lock, flags);
	if (kick)
		eventfd_ctx_put(kick);
}

/* ---- the transport, as drivers see it ---- */

static void vlo_get(struct virtio_device *vdev, unsigned int offset, void *buf, unsigned int len)
{
	struct vlo_device *device = to_vlo(vdev);
	unsigned long flags;

	memset(buf, 0, len);
	if (offset >= device->config_size)
		return;
	spin_lock_irqsave(&device->state_lock, flags);
	memcpy(buf, device->config + offset, min(len, device->config_size - offset));
	spin_unlock_irqrestore(&device->state_lock, flags);
}

static void vlo_set(struct virtio_device *vdev, unsigned int offset, const void *buf,
		    unsigned int len)
{
	struct vlo_device *device = to_vlo(vdev);
	unsigned long flags;

	if (offset >= device->config_size || len > device->config_size - offset)
		return;
	spin_lock_irqsave(&device->state_lock, flags);
	memcpy(device->config + offset, buf, len);
	spin_unlock_irqrestore(&device->state_lock, flags);
	if (device->flags & VLO_F_CONFIG_WAIT)
		vlo_post_and_wait(device, VLO_EVENT_CONFIG);
	else
		vlo_post(device, VLO_EVENT_CONFIG);
}

static u32 vlo_generation(struct virtio_device *vdev)
{
	return READ_ONCE(to_vlo(vdev)->generation);
}

static u8 vlo_get_status(struct virtio_device *vdev)
{
	return READ_ONCE(to_vlo(vdev)->status);
}

static void vlo_set_status(struct virtio_device *vdev, u8 status)
{
	struct vlo_device *device = to_vlo(vdev);

	WRITE_ONCE(device->known, true);
	WRITE_ONCE(device->status, status);
	vlo_post(device, VLO_EVENT_STATUS);
}

static void vlo_sync_callbacks(struct virtio_device *vdev)
{
	struct vlo_device *device = to_vlo(vdev);
	u32 index;

	for (index = 0; index < device->queue_count; index++)
		irq_work_sync(&device->queues[index].call_work);
}

static void vlo_reset(struct virtio_device *vdev)
{
	struct vlo_device *device = to_vlo(vdev);
	bool is_running = device->status & VIRTIO_CONFIG_S_DRIVER_OK;

	WRITE_ONCE(device->status, 0);
	if (is_running)
		vlo_stop_back_end(device, VLO_EVENT_RESET | VLO_EVENT_STATUS);
	else
		vlo_post(device, VLO_EVENT_RESET | VLO_EVENT_STATUS);
	vlo_sync_callbacks(vdev);
}

static u64 vlo_get_features(struct virtio_device *vdev)
{
	u64 features = to_vlo(vdev)->features;

#if defined(VLO_VIRTIO_MAP) || defined(VLO_DMA_OPS)
	/* Without it drivers would not map what they share. */
	features |= BIT_ULL(VIRTIO_F_ACCESS_PLATFORM);
#endif
	return features;
}

static int vlo_finalize_features(struct virtio_device *vdev)
{
	bool is_reset_wanted = __virtio_test_bit(vdev, VIRTIO_F_RING_RESET);

	vring_transport_features(vdev);
	if (is_reset_wanted)
		__virtio_set_bit(vdev, VIRTIO_F_RING_RESET);
	if (!__virtio_test_bit(vdev, VIRTIO_F_VERSION_1))
		return -EINVAL;
#if defined(VLO_VIRTIO_MAP) || defined(VLO_DMA_OPS)
	if (!__virtio_test_bit(vdev, VIRTIO_F_ACCESS_PLATFORM))
		return -EINVAL;
#endif
	return 0;
}

static const char *vlo_bus_name(struct virtio_device *vdev)
{
	return "virtio-loopback";
}

/*
 * A device has no business in the descriptor table and the available ring of a split ring, but
 * virtio-ring follows the table's NEXT flags when a request is done: false ones would lead it round
 * in circles. (Of a packed ring, which the device does write, it keeps a copy.)
 */
static void vlo_guard_ring(struct vlo_vq *queue, bool is_guarded)
{
	struct vlo_device *device = queue->device;

	if (is_guarded)
		queue->guarded = !virtio_has_feature(&device->vdev, VIRTIO_F_RING_PACKED) &&
				 vlo_in_pool(device, queue->descriptor) ?
				 ALIGN_DOWN(queue->used - queue->descriptor, PAGE_SIZE) : 0;
	if (queue->guarded)
		vlo_region_guard(device->memory[0], queue->descriptor - VLO_POOL_ADDRESS,
				 queue->guarded, is_guarded);
	if (!is_guarded)
		queue->guarded = 0;
}

/* Nothing of the ring is used from here on but by the driver itself. Under device->lock. */
static void vlo_forget_vq(struct vlo_vq *queue)
{
	unsigned long flags;

	lockdep_assert_held(&queue->device->lock);
	queue->ready = false;
	spin_lock_irqsave(&queue->lock, flags);
	queue->vq = NULL;
	spin_unlock_irqrestore(&queue->lock, flags);
	irq_work_sync(&queue->call_work);
	irq_work_sync(&queue->kick_work);
	vlo_guard_ring(queue, false);
}

static void vlo_show_vq(struct vlo_vq *queue, struct virtqueue *vq)
{
	unsigned long flags;

	lockdep_assert_held(&queue->device->lock);
	queue->size = virtqueue_get_vring_size(vq);
	queue->descriptor = virtqueue_get_desc_addr(vq);
	queue->driver = virtqueue_get_avail_addr(vq);
	queue->used = virtqueue_get_used_addr(vq);
	vlo_guard_ring(queue, true);
	queue->ready = true;
	spin_lock_irqsave(&queue->lock, flags);
	queue->vq = vq;
	spin_unlock_irqrestore(&queue->lock, flags);
}

/* Some drivers leave buffers in their rings when they go. Nobody will unmap these. */
static void vlo_forget_buffers(struct vlo_device *device)
{
	size_t at, size;

	for (at = 0; at < device->pool_size >> VLO_GRANULE_SHIFT; at++) {
		size = device->slots[at].size;
		if (!size)
			continue;
		device->slots[at].size = 0;
		gen_pool_free(device->allocator,
			      (unsigned long)device->pool + (at << VLO_GRANULE_SHIFT), size);
	}
}

static void vlo_del_vqs(struct virtio_device *vdev)
{
	struct vlo_device *device = to_vlo(vdev);
	struct virtqueue *vq, *next;

	list_for_each_entry_safe(vq, next, &vdev->vqs, list) {
		mutex_lock(&device->lock);
		vlo_forget_vq(vq->priv);
		mutex_unlock(&device->lock);
		vring_del_virtqueue(vq);
	}
	vlo_forget_buffers(device);
	vlo_post(device, VLO_EVENT_QUEUES);
}

static struct virtqueue *vlo_create_vq(struct vlo_device *device, u32 index,
				       struct virtqueue_info *info)
{
	struct virtio_device *vdev = &device->vdev;
	u32 size = device->queue_sizes[index];

#if defined(VLO_VIRTIO_MAP)
	return vring_create_virtqueue_map(index, size, PAGE_SIZE, vdev, true, true, info->ctx,
					  vlo_notify, info->callback, info->name, vdev->vmap);
#elif defined(VLO_DMA_OPS)
	return vring_create_virtqueue_dma(index, size, PAGE_SIZE, vdev, true, true, info->ctx,
					  vlo_notify, info->callback, info->name,
					  &device->parent->dev);
#else
	return vring_create_virtqueue(index, size, PAGE_SIZE, vdev, true, true, info->ctx,
				      vlo_notify, info->callback, info->name);
#endif
}

static int vlo_find_vqs(struct virtio_device *vdev, unsigned int count, struct virtqueue *vqs[],
			struct virtqueue_info infos[], struct irq_affinity *affinity)
{
	struct vlo_device *device = to_vlo(vdev);
	unsigned int i, index = 0;

	for (i = 0; i < count; i++) {
		struct virtqueue *vq = NULL;

		vqs[i] = NULL;
		if (!infos[i].name)
			continue;
		if (index < device->queue_count)
			vq = vlo_create_vq(device, index, &infos[i]);
		if (!vq) {
			vlo_del_vqs(vdev);
			return index < device->queue_count ? -ENOMEM : -ENOENT;
		}
		vq->num_max = device->queue_sizes[index];
		vq->priv = &device->queues[index];
		mutex_lock(&device->lock);
		vlo_show_vq(vq->priv, vq);
		mutex_unlock(&device->lock);
		vqs[i] = vq;
		index++;
	}
	vlo_post(device, VLO_EVENT_QUEUES);
	return 0;
}

static int vlo_disable_vq(struct virtqueue *vq)
{
	struct vlo_vq *queue = vq->priv;
	struct vlo_device *device = queue->device;

	if (!virtio_has_feature(vq->vdev, VIRTIO_F_RING_RESET))
		return -ENOENT;
	__virtqueue_break(vq);
	mutex_lock(&device->lock);
	vlo_forget_vq(queue);
	mutex_unlock(&device->lock);
	vlo_stop_back_end(device, VLO_EVENT_QUEUES);
	vq->reset = true;
	return 0;
}

static int vlo_enable_vq(struct virtqueue *vq)
{
	struct vlo_vq *queue = vq->priv;
	struct vlo_device *device = queue->device;

	if (!vq->reset)
		return -EBUSY;
	vq->reset = false;
	__virtqueue_unbreak(vq);
	mutex_lock(&device->lock);
	vlo_show_vq(queue, vq);
	mutex_unlock(&device->lock);
	vlo_post(device, VLO_EVENT_QUEUES);
	return 0;
}

static const struct virtio_config_ops vlo_config_ops = {
	.get = vlo_get,
	.set = vlo_set,
	.generation = vlo_generation,
	.get_status = vlo_get_status,
	.set_status = vlo_set_status,
	.reset = vlo_reset,
	.find_vqs = vlo_find_vqs,
	.del_vqs = vlo_del_vqs,
	.synchronize_cbs = vlo_sync_callbacks,
	.get_features = vlo_get_features,
	.finalize_features = vlo_finalize_features,
	.bus_name = vlo_bus_name,
	.disable_vq_and_reset = vlo_disable_vq,
	.enable_vq_after_reset = vlo_enable_vq,
};

/* ---- requests that nobody will serve ---- */

/*
 * Drivers wait for their requests when they are removed, for ever if need be, and which requests
 * are outstanding is known to the driver's side of the ring alone. So the entries of the used ring
 * are tried out: the driver takes what it has placed, and calls the ring broken for anything else,
 * which is undone. Nothing here relies on what a hostile back end may have left in the rings.
 */

/* Queues whose buffers wait for the device; no driver waits for these. */
static bool vlo_is_receiving(struct vlo_vq *queue)
{
	struct vlo_device *device = queue->device;
	u32 index = queue - device->queues;

	switch (device->vdev.id.device) {
	case VIRTIO_ID_NET:
		/* The control queue is the last, and even too. */
		if (virtio_has_feature(&device->vdev, VIRTIO_NET_F_CTRL_VQ) &&
		    (index + 1 == device->queue_count || !queue[1].ready))
			return false;
		return index % 2 == 0;
	case VIRTIO_ID_CONSOLE:
		return index % 2 == 0;
	case VIRTIO_ID_INPUT:
		return index == 0;
	case VIRTIO_ID_SCSI:
	case VIRTIO_ID_SOUND:
	case VIRTIO_ID_GPIO:
	case VIRTIO_ID_CAN:
		return index == 1;
	case VIRTIO_ID_VSOCK:
		return index != 1;
	default:
		return false;
	}
}

static void *vlo_ring(struct vlo_device *device, u64 address)
{
	if (vlo_in_pool(device, address))
		return device->pool + (address - VLO_POOL_ADDRESS);
	return phys_to_virt(address - VLO_RAM_ADDRESS);
}

/* What a driver does with used entries: takes all, calls the ring broken, or looks later. */
enum vlo_taking { VLO_TAKEN, VLO_REFUSED, VLO_IGNORED };

static enum vlo_taking vlo_let_take(struct vlo_vq *queue, struct virtqueue *vq)
{
	int attempt;

	for (attempt = 0; attempt < 50; attempt++) {
		irq_work_queue(&queue->call_work);
		irq_work_sync(&queue->call_work);
		if (virtqueue_is_broken(vq)) {
			__virtqueue_unbreak(vq);
			return VLO_REFUSED;
		}
		if (queue->drained)
			return VLO_TAKEN;
		usleep_range(200, 400);
	}
	return VLO_IGNORED;
}

#if !defined(VLO_VIRTIO_MAP) && !defined(VLO_DMA_OPS)

/* Buffers are not unmapped here, so the end of the chain has to be found. */
static void vlo_poison_chain(struct virtio_device *vdev, struct vring_desc *desc, u32 size,
			     u16 head)
{
	u32 left;
	u64 last;

	if (virtio16_to_cpu(vdev, desc[head].flags) & VRING_DESC_F_INDIRECT) {
		size = virtio32_to_cpu(vdev, desc[head].len) / sizeof(*desc);
		desc = phys_to_virt(virtio64_to_cpu(vdev, desc[head].addr));
		head = 0;
	}
	for (left = size; left && head < size; left--) {
		u16 flags = virtio16_to_cpu(vdev, desc[head].flags);

		if (flags & VRING_DESC_F_NEXT) {
			head = virtio16_to_cpu(vdev, desc[head].next);
			continue;
		}
		last = virtio64_to_cpu(vdev, desc[head].addr);
		last += virtio32_to_cpu(vdev, desc[head].len) - 1;
		if (flags & VRING_DESC_F_WRITE && page_is_ram(PHYS_PFN(last)))
			vlo_poison(phys_to_virt(last), 1);
		return;
	}
}

static bool vlo_may_be_head(struct vlo_device *device, struct vring_desc *desc)
{
	return desc->len;
}

#else

static void vlo_poison_chain(struct virtio_device *vdev, struct vring_desc *desc, u32 size,
			     u16 head)
{
}

/* A head's first buffer is mapped. Says yes too often, but never too seldom in a sane ring. */
static bool vlo_may_be_head(struct vlo_device *device, struct vring_desc *desc)
{
	u64 inner = virtio64_to_cpu(&device->vdev, desc->addr) - VLO_POOL_ADDRESS;
	u32 size = virtio32_to_cpu(&device->vdev, desc->len);

	if (!size || device->flags & VLO_F_DIRECT)
		return size;
	return inner < device->pool_size &&
	       READ_ONCE(device->slots[inner >> VLO_GRANULE_SHIFT].size) == size;
}

#endif

/* Which used entry does the driver look at next? A broken ring tells without looking. */
static void vlo_find_split(struct virtqueue *vq, struct vring_used *used)
{
	u16 first = virtio16_to_cpu(vq->vdev, used->idx);
	u32 i;

	__virtqueue_break(vq);
	for (i = 0; i <= U16_MAX; i++) {
		WRITE_ONCE(used->idx, cpu_to_virtio16(vq->vdev, first + i));
		if (vring_interrupt(0, vq) == IRQ_NONE)
			break;
	}
	__virtqueue_unbreak(vq);
}

static enum vlo_taking vlo_fail_head(struct vlo_vq *queue, struct virtqueue *vq, u16 head)
{
	struct vring_used *used = vlo_ring(queue->device, queue->used);
	u16 at = virtio16_to_cpu(vq->vdev, used->idx);
	enum vlo_taking taking;

	vlo_poison_chain(vq->vdev, vlo_ring(queue->device, queue->descriptor), queue->size, head);
	used->ring[at & (queue->size - 1)].id = cpu_to_virtio32(vq->vdev, head);
	used->ring[at & (queue->size - 1)].len = 0;
	/* After the entry. */
	smp_store_release(&used->idx, cpu_to_virtio16(vq->vdev, at + 1));
	taking = vlo_let_take(queue, vq);
	if (taking == VLO_REFUSED)
		WRITE_ONCE(used->idx, cpu_to_virtio16(vq->vdev, at));
	return taking;
}

static u32 vlo_fail_split(struct vlo_vq *queue, struct virtqueue *vq)
{
	struct vring_desc *desc = vlo_ring(queue->device, queue->descriptor);
	struct vring_avail *avail = vlo_ring(queue->device, queue->driver);
	struct vring_used *used = vlo_ring(queue->device, queue->used);
	DECLARE_BITMAP(tried, VLO_QUEUE_SIZE_MAX) = {};
	bool is_blind = virtqueue_is_broken(vq);
	enum vlo_taking taking;
	u32 i, failed = 0;
	u16 first, pending, at, head;

	if (!is_blind) {
		taking = vlo_let_take(queue, vq);
		if (taking == VLO_IGNORED)
			return 0;
		is_blind = taking == VLO_REFUSED;
	}
	if (is_blind)
		vlo_find_split(vq, used);
	/* Most likely those are outstanding that were placed last. Then all others. */
	first = virtio16_to_cpu(vq->vdev, used->idx);
	pending = virtio16_to_cpu(vq->vdev, READ_ONCE(avail->idx)) - first;
	if (pending > queue->size)
		pending = 0;
	for (i = 0; i < pending + queue->size && vq->num_free != queue->size; i++) {
		at = (first + i) & (queue->size - 1);
		head = i < pending ? virtio16_to_cpu(vq->vdev, avail->ring[at]) : i - pending;
		if (head >= queue->size || test_and_set_bit(head, tried) ||
		    !(is_blind || vlo_may_be_head(queue->device, &desc[head])))
			continue;
		taking = vlo_fail_head(queue, vq, head);
		if (taking == VLO_IGNORED)
			break;
		failed += taking == VLO_TAKEN;
	}
	return failed;
}

static void vlo_set_packed(struct vring_packed_desc *desc, bool is_used, bool wrap)
{
	u16 flags = BIT(VRING_PACKED_DESC_F_AVAIL);

	if (is_used)
		flags = wrap ? flags | BIT(VRING_PACKED_DESC_F_USED) : 0;
	smp_store_release(&desc->flags, cpu_to_le16(flags));	/* after the rest of it */
}

/* As vlo_find_split(): the entry that the driver looks at next, marked used; or NULL. */
static struct vring_packed_desc *vlo_find_packed(struct vlo_vq *queue, struct virtqueue *vq)
{
	struct vring_packed_desc *desc = vlo_ring(queue->device, queue->descriptor);
	struct vring_packed_desc *found = NULL;
	u32 i;

	__virtqueue_break(vq);
	for (i = 0; i < 2 * queue->size && !found; i++) {
		vlo_set_packed(&desc[i / 2], true, i % 2);
		if (vring_interrupt(0, vq) == IRQ_HANDLED)
			found = &desc[i / 2];
		else
			vlo_set_packed(&desc[i / 2], false, false);
	}
	return found;
}

static u32 vlo_fail_packed(struct vlo_vq *queue, struct virtqueue *vq)
{
	struct vring_packed_desc *desc = vlo_ring(queue->device, queue->descriptor);
	enum vlo_taking taking = VLO_TAKEN;
	struct vring_packed_desc *found;
	u32 id, i, failed = 0;

	if (!virtqueue_is_broken(vq) && vlo_let_take(queue, vq) == VLO_IGNORED)
		return 0;
	__virtqueue_break(vq);
	for (i = 0; i < queue->size; i++)
		vlo_set_packed(&desc[i], false, false);
	for (id = 0; id < queue->size && vq->num_free != queue->size; id++) {
		found = vlo_find_packed(queue, vq);
		if (!found)
			break;
		found->id = cpu_to_le16(id);
		found->len = 0;
		__virtqueue_unbreak(vq);
		taking = vlo_let_take(queue, vq);
		if (taking == VLO_IGNORED)
			break;
		vlo_set_packed(found, false, false);
		failed += taking == VLO_TAKEN;
	}
	__virtqueue_unbreak(vq);
	return failed;
}

/* Under device->lock. Returns how many requests were completed as failed. */
static u32 vlo_fail_requests(struct vlo_device *device)
{
	bool is_packed = virtio_has_feature(&device->vdev, VIRTIO_F_RING_PACKED);
	struct vlo_vq *queue;
	u32 index, failed = 0;

	lockdep_assert_held(&device->lock);
	for (index = 0; index < device->queue_count; index++) {
		queue = &device->queues[index];
		if (!queue->ready || vlo_is_receiving(queue) ||
		    queue->vq->num_free == queue->size)
			continue;
		failed += is_packed ? vlo_fail_packed(queue, queue->vq) :
				      vlo_fail_split(queue, queue->vq);
	}
	return failed;
}

static void vlo_fail_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, fail_work.work);

	mutex_lock(&device->lock);
	vlo_fail_requests(device);
	mutex_unlock(&device->lock);
	/* A driver on its way out places more of them: it flushes, and asks again. */
	if (!READ_ONCE(device->gone))
		queue_delayed_work(vlo_rescue_wq, &device->fail_work, VLO_FAIL_JIFFIES);
}

/* ---- life of a device ---- */

static void vlo_free_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, free_work);
	int i;

	/* Nobody can start these any more, but they may still be under way. */
	cancel_work_sync(&device->remove_work);
	cancel_delayed_work_sync(&device->orphan_work);
	cancel_delayed_work_sync(&device->fail_work);
	platform_device_unregister(device->parent);
	if (device->allocator)
		gen_pool_destroy(device->allocator);
	for (i = 0; i < ARRAY_SIZE(device->memory); i++)
		if (device->memory[i])
			fput(device->memory[i]);
	if (device->stash)
		fput(device->stash);
	if (device->id)
		ida_free(&vlo_ids, device->id - 1);
	kvfree(device->slots);
	kvfree(device->queues);
	kfree(device);
}

static void vlo_last_put(struct kref *refs)
{
	struct vlo_device *device = container_of(refs, struct vlo_device, refs);

	/* The last one may hold a lock, or be the driver core. */
	queue_work(vlo_wq, &device->free_work);
}

static void vlo_put(struct vlo_device *device)
{
	kref_put(&device->refs, vlo_last_put);
}

static void vlo_vdev_release(struct device *dev)
{
	vlo_put(to_vlo(dev_to_virtio(dev)));
}

/* The end, from any state; may be called again. Does not wait for the driver. */
static void vlo_kill(struct vlo_device *device, const char *why)
{
	int i;

	if (xchg(&device->dead, true))
		return;
	dev_info(&device->parent->dev, "%s: %s; its requests fail\n", device->name, why);
	WRITE_ONCE(device->failing, true);
	for (i = 0; i < ARRAY_SIZE(device->memory); i++)
		if (device->memory[i])
			vlo_region_revoke(device->memory[i]);
	wake_up_all(&device->wait);
	queue_delayed_work(vlo_rescue_wq, &device->fail_work, 0);
	queue_work(vlo_wq, &device->remove_work);
}

/* Not in the ioctl: the probe of a driver does I/O that the caller's back end has to answer. */
static void vlo_register_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, register_work);
	int error = register_virtio_device(&device->vdev);

	if (!error) {
		device->registered = true;
		return;
	}
	dev_err(&device->parent->dev, "%s: not registered: %d\n", device->name, error);
	put_device(&device->vdev.dev);
	vlo_kill(device, "there is no virtio device");
}

static void vlo_remove_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, remove_work);
	u32 index;

	if (test_and_set_bit(0, &device->removing))
		return;
	flush_work(&device->register_work);
	/*
	 * What is outstanding fails before its driver is on the way out: virtio_snd forgets its
	 * control requests first of all, and does not bear the answer to one of them after that.
	 */
	if (READ_ONCE(device->dead))
		flush_delayed_work(&device->fail_work);
	if (device->registered)
		unregister_virtio_device(&device->vdev);
	WRITE_ONCE(device->gone, true);
	cancel_delayed_work_sync(&device->fail_work);
	mutex_lock(&device->lock);
	for (index = 0; index < device->queue_count; index++) {
		vlo_call_drop(&device->queues[index]);
		vlo_kick_set(&device->queues[index], NULL);
		irq_work_sync(&device->queues[index].kick_work);
	}
	mutex_unlock(&device->lock);
	mutex_lock(&vlo_list_lock);
	device->condemned = true;
	list_del_init(&device->list);
	mutex_unlock(&vlo_list_lock);
	cancel_delayed_work_sync(&device->orphan_work);
	vlo_post(device, VLO_EVENT_GONE);
	vlo_put(device);
}

static void vlo_orphan_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, orphan_work.work);
	bool is_over;

	mutex_lock(&vlo_list_lock);
	is_over = !device->owner && !device->condemned;
	if (is_over)
		device->condemned = true;
	mutex_unlock(&vlo_list_lock);
	if (is_over)
		vlo_kill(device, "no adapter took it over in time");
}

static int vlo_check_name(const char *name)
{
	size_t i, length = strnlen(name, VLO_NAME_SIZE);

	if (!length || length == VLO_NAME_SIZE)
		return -EINVAL;
	for (i = 0; i < length; i++)
		if (!isalnum(name[i]) && !strchr("-_.", name[i]))
			return -EINVAL;
	return memchr_inv(name + length, 0, VLO_NAME_SIZE - length) ? -EINVAL : 0;
}

static int vlo_check_create(const struct vlo_create *create)
{
	u32 i;

	if (create->abi_version != VLO_ABI_VERSION)
		return -EPROTO;
	if (create->shm_count)
		return -EOPNOTSUPP;
	if (!create->device_id || create->reserved_features || vlo_check_name(create->name) ||
	    create->flags & ~VLO_FLAGS || create->features & ~VLO_FEATURES ||
	    !(create->features & BIT_ULL(VIRTIO_F_VERSION_1)) ||
	    create->pool_size < VLO_POOL_SIZE_MIN || create->pool_size > VLO_POOL_SIZE_MAX ||
	    !PAGE_ALIGNED(create->pool_size) || create->takeover_ms > VLO_TAKEOVER_MS_MAX ||
	    !create->queue_count || create->queue_count > VLO_QUEUES_MAX ||
	    create->config_size > VLO_CONFIG_SIZE_MAX)
		return -EINVAL;
	for (i = 0; i < VLO_QUEUES_MAX; i++) {
		u16 size = create->queue_sizes[i];

		if (i >= create->queue_count ? size :
		    !is_power_of_2(size) || size > VLO_QUEUE_SIZE_MAX)
			return -EINVAL;
	}
	if (memchr_inv(create->config + create->config_size, 0,
		       VLO_CONFIG_SIZE_MAX - create->config_size))
		return -EINVAL;
#if defined(VLO_VIRTIO_MAP) || defined(VLO_DMA_OPS)
	if (create->flags & VLO_F_DIRECT && !capable(CAP_SYS_RAWIO))
		return -EPERM;
#else
	/* This kernel lets no module map a driver's buffers: there is no bouncing. */
	if (!(create->flags & VLO_F_DIRECT))
		return -EOPNOTSUPP;
	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
#endif
	return 0;
}

static int vlo_ram_end(struct resource *resource, void *end)
{
	*(u64 *)end = max_t(u64, *(u64 *)end, resource->end + 1);
	return 0;
}

static int vlo_create_memory(struct vlo_device *device)
{
	size_t granules = device->pool_size >> VLO_GRANULE_SHIFT;
	struct file *file;
	u64 end = 0;

	device->pool = vmalloc_user(device->pool_size);
	if (!device->pool)
		return -ENOMEM;
	file = vlo_region_create(device->pool, device->pool_size);
	if (IS_ERR(file)) {
		vfree(device->pool);
		return PTR_ERR(file);
	}
	device->memory[0] = file;
	device->slots = kvcalloc(granules, sizeof(*device->slots), GFP_KERNEL);
	device->allocator = gen_pool_create(VLO_GRANULE_SHIFT, NUMA_NO_NODE);
	if (!device->slots || !device->allocator)
		return -ENOMEM;
	if (device->flags & VLO_F_DIRECT) {
		walk_iomem_res_desc(IORES_DESC_NONE, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, 0,
				    -1, &end, vlo_ram_end);
		end = PAGE_ALIGN(end);
		if (!end || VLO_RAM_ADDRESS + end > VLO_POOL_ADDRESS << 6)
			return -ERANGE;
		file = vlo_region_create(NULL, end);
		if (IS_ERR(file))
			return PTR_ERR(file);
		device->memory[1] = file;
	}
	return gen_pool_add(device->allocator, (unsigned long)device->pool, device->pool_size,
			    NUMA_NO_NODE);
}

static int vlo_create_parent(struct vlo_device *device)
{
	int id = ida_alloc_max(&vlo_ids, VLO_DEVICES_MAX - 1, GFP_KERNEL);
	struct platform_device *parent;

	if (id < 0)
		return id == -ENOSPC ? -EUSERS : id;
	device->id = id + 1;	/* until then 0: none */
	parent = platform_device_register_simple("virtio-loopback", id, NULL, 0);
	if (IS_ERR(parent))
		return PTR_ERR(parent);
	device->parent = parent;
	dev_set_drvdata(&parent->dev, device);
#if defined(VLO_DMA_OPS)
	set_dma_ops(&parent->dev, &vlo_dma_ops);
#endif
	return dma_coerce_mask_and_coherent(&parent->dev, DMA_BIT_MASK(64));
}

static void vlo_init_queue(struct vlo_device *device, struct vlo_vq *queue)
{
	queue->device = device;
	spin_lock_init(&queue->lock);
	init_irq_work(&queue->call_work, vlo_call_work);
	init_irq_work(&queue->kick_work, vlo_kick_work);
}

static struct vlo_device *vlo_new_device(const struct vlo_create *create)
{
	struct vlo_device *device = kzalloc(sizeof(*device), GFP_KERNEL);
	int error = -ENOMEM;
	u32 index;

	if (!device)
		return ERR_PTR(-ENOMEM);
	kref_init(&device->refs);
	INIT_LIST_HEAD(&device->list);
	mutex_init(&device->lock);
	spin_lock_init(&device->state_lock);
	init_waitqueue_head(&device->wait);
	INIT_WORK(&device->register_work, vlo_register_work);
	INIT_WORK(&device->remove_work, vlo_remove_work);
	INIT_WORK(&device->free_work, vlo_free_work);
	INIT_DELAYED_WORK(&device->orphan_work, vlo_orphan_work);
	INIT_DELAYED_WORK(&device->fail_work, vlo_fail_work);
	memcpy(device->name, create->name, sizeof(device->name));
	memcpy(device->queue_sizes, create->queue_sizes, sizeof(device->queue_sizes));
	memcpy(device->config, create->config, sizeof(device->config));
	device->flags = create->flags;
	device->queue_count = create->queue_count;
	device->config_size = create->config_size;
	device->takeover_ms = create->takeover_ms;
	device->features = create->features;
	device->pool_size = create->pool_size;
	device->vdev.id.device = create->device_id;
	device->vdev.id.vendor = create->vendor_id;
	device->vdev.config = &vlo_config_ops;
	device->vdev.dev.release = vlo_vdev_release;
	device->queues = kvcalloc(device->queue_count, sizeof(*device->queues), GFP_KERNEL);
	if (!device->queues)
		goto fail;
	for (index = 0; index < device->queue_count; index++)
		vlo_init_queue(device, &device->queues[index]);
	error = vlo_create_parent(device);
	if (error)
		goto fail;
	error = vlo_create_memory(device);
	if (error)
		goto fail;
	device->vdev.dev.parent = &device->parent->dev;
#if defined(VLO_VIRTIO_MAP)
	device->vdev.map = &vlo_map_ops;
	device->vdev.vmap.group = (struct vduse_vq_group *)device;
#endif
	return device;
fail:
	vlo_put(device);
	return ERR_PTR(error);
}

static struct vlo_device *vlo_find(const char *name)
{
	struct vlo_device *device;

	lockdep_assert_held(&vlo_list_lock);
	list_for_each_entry(device, &vlo_list, list)
		if (!strcmp(device->name, name))
			return device;
	return NULL;
}

/* ---- /dev/virtio-loopback ---- */

static int vlo_ioctl_create(struct vlo_handle *handle, void __user *argument)
{
	struct vlo_create *create __free(kfree) = memdup_user(argument, sizeof(*create));
	struct vlo_device *device;
	int error;

	if (IS_ERR(create))
		return PTR_ERR(create);
	error = vlo_check_create(create);
	if (error)
		return error;
	guard(mutex)(&handle->lock);
	if (handle->device)
		return -EALREADY;
	device = vlo_new_device(create);
	if (IS_ERR(device))
		return PTR_ERR(device);
	mutex_lock(&vlo_list_lock);
	if (vlo_find(device->name)) {
		mutex_unlock(&vlo_list_lock);
		vlo_put(device);
		return -EEXIST;
	}
	/* Held by the list, this file, and the virtio device. */
	kref_get(&device->refs);
	kref_get(&device->refs);
	device->owner = handle;
	list_add_tail(&device->list, &vlo_list);
	mutex_unlock(&vlo_list_lock);
	smp_store_release(&handle->device, device);	/* after all that is in it */
	queue_work(vlo_wq, &device->register_work);
	return 0;
}

static int vlo_ioctl_attach(struct vlo_handle *handle, void __user *argument)
{
	struct vlo_device *device;
	struct vlo_attach attach;

	if (copy_from_user(&attach, argument, sizeof(attach)))
		return -EFAULT;
	if (attach.abi_version != VLO_ABI_VERSION)
		return -EPROTO;
	if (attach.reserved || vlo_check_name(attach.name))
		return -EINVAL;
	guard(mutex)(&handle->lock);
	if (handle->device)
		return -EALREADY;
	mutex_lock(&vlo_list_lock);
	device = vlo_find(attach.name);
	if (!device || device->owner || device->condemned) {
		mutex_unlock(&vlo_list_lock);
		return !device ? -ENOENT : device->owner ? -EBUSY : -ENODEV;
	}
	device->owner = handle;
	kref_get(&device->refs);
	mutex_unlock(&vlo_list_lock);
	cancel_delayed_work(&device->orphan_work);
	/* Its predecessor may have read these and died. */
	vlo_post(device, VLO_EVENT_STATUS | VLO_EVENT_QUEUES | VLO_EVENT_RESET | VLO_EVENT_CONFIG);
	smp_store_release(&handle->device, device);	/* after all that is in it */
	return 0;
}

static int vlo_ioctl_info(struct vlo_device *device, void __user *argument)
{
	struct vlo_info info = {
		.abi_version = VLO_ABI_VERSION,
		.id = device->id - 1,
		.flags = device->flags,
		.device_id = device->vdev.id.device,
		.vendor_id = device->vdev.id.vendor,
		.queue_count = device->queue_count,
		.config_size = device->config_size,
		.takeover_ms = device->takeover_ms,
		.features = device->features,
		.driver_features = device->vdev.features & ~BIT_ULL(VIRTIO_F_ACCESS_PLATFORM),
		.pool_size = device->pool_size,
	};

	memcpy(info.name, device->name, sizeof(info.name));
	memcpy(info.queue_sizes, device->queue_sizes, sizeof(info.queue_sizes));
	return copy_to_user(argument, &info, sizeof(info)) ? -EFAULT : 0;
}

static struct vlo_vq *vlo_queue_at(struct vlo_device *device, u32 index)
{
	if (index >= device->queue_count)
		return NULL;
	return &device->queues[array_index_nospec(index, device->queue_count)];
}

static int vlo_ioctl_queue(struct vlo_device *device, void __user *argument)
{
	struct vlo_queue answer = {};
	struct vlo_vq *queue;

	if (copy_from_user(&answer.index, argument, sizeof(answer.index)))
		return -EFAULT;
	queue = vlo_queue_at(device, answer.index);
	if (!queue)
		return -EINVAL;
	mutex_lock(&device->lock);
	if (queue->ready) {
		answer.ready = 1;
		answer.size = queue->size;
		answer.broken = virtqueue_is_broken(queue->vq);
		answer.descriptor = queue->descriptor;
		answer.driver = queue->driver;
		answer.device = queue->used;
	}
	mutex_unlock(&device->lock);
	return copy_to_user(argument, &answer, sizeof(answer)) ? -EFAULT : 0;
}

static int vlo_ioctl_memory(struct vlo_device *device, void __user *argument)
{
	struct vlo_memory answer;
	struct vlo_region *region;
	struct file *file;
	int fd;

	if (copy_from_user(&answer, argument, sizeof(answer)))
		return -EFAULT;
	if (answer.index >= ARRAY_SIZE(device->memory))
		return -EINVAL;
	file = device->memory[array_index_nospec(answer.index, ARRAY_SIZE(device->memory))];
	if (!file)
		return -ENOENT;
	region = file->private_data;
	answer.address = region->pool ? VLO_POOL_ADDRESS : VLO_RAM_ADDRESS;
	answer.size = region->size;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	answer.fd = fd;
	if (copy_to_user(argument, &answer, sizeof(answer))) {
		put_unused_fd(fd);
		return -EFAULT;
	}
	fd_install(fd, get_file(file));
	return 0;
}

static int vlo_set_call(struct vlo_device *device, struct vlo_vq *queue, struct file *file)
{
	struct vlo_call *call = kzalloc(sizeof(*call), GFP_KERNEL);

	if (!call)
		return -ENOMEM;
	call->eventfd = eventfd_ctx_fileget(file);
	if (IS_ERR(call->eventfd)) {
		int error = PTR_ERR(call->eventfd);

		kfree(call);
		return error;
	}
	call->queue = queue;
	init_waitqueue_func_entry(&call->wait, vlo_call_wake);
	init_poll_funcptr(&call->table, vlo_call_table);
	mutex_lock(&device->lock);
	if (READ_ONCE(device->gone)) {
		mutex_unlock(&device->lock);
		eventfd_ctx_put(call->eventfd);
		kfree(call);
		return -ENODEV;
	}
	vlo_call_drop(queue);
	queue->call = call;
	/* What was signalled before goes the same way as what follows. */
	if (vfs_poll(file, &call->table) & EPOLLIN)
		irq_work_queue(&queue->call_work);
	mutex_unlock(&device->lock);
	return 0;
}

static int vlo_ioctl_eventfd(struct vlo_device *device, bool is_call, void __user *argument)
{
	struct eventfd_ctx *kick = NULL;
	struct file *file = NULL;
	struct vlo_vq *queue;
	struct vlo_fd event;
	int error = 0;

	if (copy_from_user(&event, argument, sizeof(event)))
		return -EFAULT;
	queue = vlo_queue_at(device, event.index);
	if (!queue || event.fd < -1)
		return -EINVAL;
	if (event.fd >= 0) {
		file = fget(event.fd);
		if (!file)
			return -EBADF;
	}
	if (is_call && file) {
		error = vlo_set_call(device, queue, file);
	} else if (is_call) {
		mutex_lock(&device->lock);
		vlo_call_drop(queue);
		mutex_unlock(&device->lock);
	} else {
		if (file)
			kick = eventfd_ctx_fileget(file);
		mutex_lock(&device->lock);
		if (IS_ERR(kick)) {
			error = PTR_ERR(kick);
		} else if (READ_ONCE(device->gone)) {
			if (kick)
				eventfd_ctx_put(kick);
			error = -ENODEV;
		} else {
			vlo_kick_set(queue, kick);
		}
		mutex_unlock(&device->lock);
	}
	if (file)
		fput(file);
	return error;
}

static int vlo_ioctl_config(struct vlo_device *device, bool is_write, void __user *argument)
{
	struct vlo_config config;
	bool is_change = false;
	unsigned long flags;

	if (copy_from_user(&config, argument, sizeof(config)))
		return -EFAULT;
	if (config.offset > device->config_size ||
	    config.size > device->config_size - config.offset)
		return -EINVAL;
	spin_lock_irqsave(&device->state_lock, flags);
	if (is_write) {
		is_change = memcmp(device->config + config.offset, config.bytes, config.size);
		memcpy(device->config + config.offset, config.bytes, config.size);
		WRITE_ONCE(device->generation, device->generation + is_change);
	} else {
		memset(config.bytes, 0, sizeof(config.bytes));
		memcpy(config.bytes, device->config + config.offset, config.size);
	}
	spin_unlock_irqrestore(&device->state_lock, flags);
	if (!is_write)
		return copy_to_user(argument, &config, sizeof(config)) ? -EFAULT : 0;
	if (is_change && READ_ONCE(device->known))
		virtio_config_changed(&device->vdev);
	return 0;
}

static int vlo_ioctl_ack(struct vlo_device *device, void __user *argument)
{
	unsigned long flags;
	u32 sequence;
	int error = 0;

	if (copy_from_user(&sequence, argument, sizeof(sequence)))
		return -EFAULT;
	spin_lock_irqsave(&device->state_lock, flags);
	/* Between what was acknowledged last and what there is to acknowledge. */
	if (sequence - device->acked > device->sequence - device->acked)
		error = -EINVAL;
	else
		WRITE_ONCE(device->acked, sequence);
	spin_unlock_irqrestore(&device->state_lock, flags);
	wake_up_all(&device->wait);
	return error;
}

static int vlo_ioctl_set_stash(struct vlo_device *device, void __user *argument)
{
	struct vlo_stash stash;
	struct file *file = NULL;

	if (copy_from_user(&stash, argument, sizeof(stash)))
		return -EFAULT;
	if (stash.fd < -1 || stash.note_size > VLO_STASH_NOTE_SIZE)
		return -EINVAL;
	if (stash.fd >= 0) {
		file = fget(stash.fd);
		if (!file)
			return -EBADF;
		/* Any other kind could lead back to this file, and neither would ever go. */
		if (!shmem_mapping(file->f_mapping)) {
			fput(file);
			return -EMEDIUMTYPE;
		}
	}
	mutex_lock(&device->lock);
	swap(device->stash, file);
	device->stash_note_size = stash.note_size;
	memcpy(device->stash_note, stash.note, sizeof(device->stash_note));
	mutex_unlock(&device->lock);
	if (file)
		fput(file);
	return 0;
}

static int vlo_ioctl_get_stash(struct vlo_device *device, void __user *argument)
{
	struct vlo_stash stash = { .fd = -1 };
	struct file *file;

	mutex_lock(&device->lock);
	file = device->stash ? get_file(device->stash) : NULL;
	stash.note_size = device->stash_note_size;
	memcpy(stash.note, device->stash_note, sizeof(stash.note));
	mutex_unlock(&device->lock);
	if (file) {
		stash.fd = get_unused_fd_flags(O_CLOEXEC);
		if (stash.fd < 0) {
			fput(file);
			return stash.fd;
		}
	}
	if (copy_to_user(argument, &stash, sizeof(stash))) {
		if (file) {
			put_unused_fd(stash.fd);
			fput(file);
		}
		return -EFAULT;
	}
	if (file)
		fd_install(stash.fd, file);
	return 0;
}

static int vlo_ioctl_fail(struct vlo_device *device)
{
	u32 failed;

	/* Where a packed ring goes on afterwards, nobody could say. */
	if (virtio_has_feature(&device->vdev, VIRTIO_F_RING_PACKED))
		return -EOPNOTSUPP;
	guard(mutex)(&device->lock);
	WRITE_ONCE(device->failing, true);
	failed = vlo_fail_requests(device);
	if (!READ_ONCE(device->dead))
		WRITE_ONCE(device->failing, false);
	return failed;
}

static int vlo_ioctl_remove(struct vlo_device *device)
{
	bool is_broken = false;
	u32 index;

	mutex_lock(&vlo_list_lock);
	device->condemned = true;
	mutex_unlock(&vlo_list_lock);
	mutex_lock(&device->lock);
	for (index = 0; index < device->queue_count; index++)
		if (device->queues[index].ready)
			is_broken |= virtqueue_is_broken(device->queues[index].vq);
	mutex_unlock(&device->lock);
	/* The driver would wait for requests that can no longer come back. */
	if (is_broken)
		vlo_kill(device, "removed with a broken ring");
	else
		queue_work(vlo_wq, &device->remove_work);
	return 0;
}

static long vlo_ioctl(struct file *file, unsigned int command, unsigned long value)
{
	struct vlo_handle *handle = file->private_data;
	void __user *argument = (void __user *)value;
	struct vlo_device *device;

	if (command == VLO_CREATE)
		return vlo_ioctl_create(handle, argument);
	if (command == VLO_ATTACH)
		return vlo_ioctl_attach(handle, argument);
	device = READ_ONCE(handle->device);
	if (!device)
		return -EUNATCH;
	if (READ_ONCE(device->gone))
		return -ENODEV;
	switch (command) {
	case VLO_GET_INFO:
		return vlo_ioctl_info(device, argument);
	case VLO_GET_QUEUE:
		return vlo_ioctl_queue(device, argument);
	case VLO_GET_MEMORY:
		return vlo_ioctl_memory(device, argument);
	case VLO_SET_KICK:
	case VLO_SET_CALL:
		return vlo_ioctl_eventfd(device, command == VLO_SET_CALL, argument);
	case VLO_GET_CONFIG:
	case VLO_SET_CONFIG:
		return vlo_ioctl_config(device, command == VLO_SET_CONFIG, argument);
	case VLO_ACK:
		return vlo_ioctl_ack(device, argument);
	case VLO_SET_STASH:
		return vlo_ioctl_set_stash(device, argument);
	case VLO_GET_STASH:
		return vlo_ioctl_get_stash(device, argument);
	case VLO_FAIL_REQUESTS:
		return vlo_ioctl_fail(device);
	case VLO_REMOVE:
		return vlo_ioctl_remove(device);
	default:
		return -ENOTTY;
	}
}

static ssize_t vlo_read(struct file *file, char __user *buffer, size_t count, loff_t *position)
{
	struct vlo_handle *handle = file->private_data;
	struct vlo_device *device = READ_ONCE(handle->device);
	struct vlo_event event = {};
	unsigned long flags;

	if (!device)
		return -EUNATCH;
	if (count < sizeof(event))
		return -EINVAL;
	while (!event.events) {
		if (!READ_ONCE(device->events)) {
			if (READ_ONCE(device->gone))
				return -ENODEV;
			if (file->f_flags & O_NONBLOCK)
				return -EAGAIN;
			if (wait_event_interruptible(device->wait, READ_ONCE(device->events) ||
						     READ_ONCE(device->gone)))
				return -ERESTARTSYS;
		}
		spin_lock_irqsave(&device->state_lock, flags);
		event.events = device->events;
		event.status = device->status;
		event.sequence = device->sequence;
		event.unacked = device->sequence != device->acked;
		device->events = 0;
		spin_unlock_irqrestore(&device->state_lock, flags);
	}
	if (copy_to_user(buffer, &event, sizeof(event))) {
		vlo_post(device, event.events);
		return -EFAULT;
	}
	return sizeof(event);
}

static __poll_t vlo_poll(struct file *file, poll_table *table)
{
	struct vlo_handle *handle = file->private_data;
	struct vlo_device *device = READ_ONCE(handle->device);

	if (!device)
		return EPOLLERR;
	poll_wait(file, &device->wait, table);
	return (READ_ONCE(device->events) ? EPOLLIN | EPOLLRDNORM : 0) |
	       (READ_ONCE(device->gone) ? EPOLLHUP : 0);
}

static int vlo_open(struct inode *inode, struct file *file)
{
	struct vlo_handle *handle = kzalloc(sizeof(*handle), GFP_KERNEL);

	if (!handle)
		return -ENOMEM;
	mutex_init(&handle->lock);
	file->private_data = handle;
	return 0;
}

/* The device stays for another adapter. Nothing here waits: a process may be dying. */
static int vlo_release(struct inode *inode, struct file *file)
{
	struct vlo_handle *handle = file->private_data;
	struct vlo_device *device = handle->device;
	bool is_over;

	if (device) {
		mutex_lock(&vlo_list_lock);
		WRITE_ONCE(device->owner, NULL);
		is_over = device->condemned || !device->takeover_ms;
		device->condemned = is_over;
		/* In the lock: the next owner must find it, to cancel it. */
		if (!is_over)
			queue_delayed_work(vlo_rescue_wq, &device->orphan_work,
					   msecs_to_jiffies(device->takeover_ms));
		mutex_unlock(&vlo_list_lock);
		wake_up_all(&device->wait);
		if (is_over && !READ_ONCE(device->gone))
			vlo_kill(device, "its adapter has gone");
		vlo_put(device);
	}
	kfree(handle);
	return 0;
}

static const struct file_operations vlo_fops = {
	.owner = THIS_MODULE,
	.open = vlo_open,
	.release = vlo_release,
	.read = vlo_read,
	.poll = vlo_poll,
	.unlocked_ioctl = vlo_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice vlo_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "virtio-loopback",
	.mode = 0600,
	.fops = &vlo_fops,
};

static int __init vlo_init(void)
{
	int error;

	vlo_wq = alloc_workqueue("virtio-loopback", WQ_UNBOUND, 0);
	if (!vlo_wq)
		return -ENOMEM;
	vlo_rescue_wq = alloc_workqueue("virtio-loopback-rescue", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!vlo_rescue_wq) {
		destroy_workqueue(vlo_wq);
		return -ENOMEM;
	}
	error = misc_register(&vlo_misc);
	if (error) {
		destroy_workqueue(vlo_rescue_wq);
		destroy_workqueue(vlo_wq);
	}
	return error;
}

/* Devices hold memory files, and those this module: there are none any more. */
static void __exit vlo_exit(void)
{
	misc_deregister(&vlo_misc);
	destroy_workqueue(vlo_rescue_wq);
	destroy_workqueue(vlo_wq);
	ida_destroy(&vlo_ids);
}

module_init(vlo_init);
module_exit(vlo_exit);
MODULE_DESCRIPTION("virtio transport whose devices are processes");
MODULE_LICENSE("GPL");
MODULE_VERSION("1.0");
