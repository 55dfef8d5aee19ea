// SPDX-License-Identifier: GPL-2.0
/*
 * Sessions: the time of one back end, and its memory.
 *
 * The memory is shared memory of the kernel's (tmpfs), so any process can map it, pin it for long
 * (io_uring's registered buffers, VFIO), and find its size. It is zero when the session begins, is
 * not used again afterwards, and goes when the last process that has it lets go. So a back end that
 * was left behind can go on writing into it, and reaches nothing. With VLO_F_DIRECT the session has
 * the host's RAM besides, and that is taken back when the session ends.
 *
 *   | ring of queue 0 | ring of queue 1 | ... | frames of queue 0 | ... | pages for others |
 */
#include <linux/bitmap.h>
#include <linux/pagemap.h>
#include <linux/random.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "vlo.h"

/* Frames may take three quarters of a pool; else all requests share all of it. */
#define VLO_FRAMES_SHARE(pages)		((pages) / 4 * 3)

/*
 * Pages of shared memory count in the memory cgroup by themselves: __GFP_ACCOUNT would count them
 * twice. Where they are too much START fails, and no process is killed.
 */
#define VLO_POOL_GFP	(GFP_KERNEL | __GFP_ZERO | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/**
 * vlo_pool_take() - takes pages in a row
 * @pool: the pool
 * @pages: how many
 *
 * Context: Any context.
 *
 * Return: The first page, or 0 if the pool has no room.
 */
u32 vlo_pool_take(struct vlo_pool *pool, u32 pages)
{
	unsigned long flags, page, end = pool->page_count;
	u32 first = end - pool->room;

	spin_lock_irqsave(&pool->lock, flags);
	/* Behind the last ones: their neighbours are likely to be free. */
	page = bitmap_find_next_zero_area(pool->map, end, pool->hint, pages, 0);
	if (page >= end)
		page = bitmap_find_next_zero_area(pool->map, end, first, pages, 0);
	if (page < end) {
		bitmap_set(pool->map, page, pages);
		pool->hint = page + pages < end ? page + pages : first;
	} else {
		page = 0;
	}
	spin_unlock_irqrestore(&pool->lock, flags);
	return page;
}

/**
 * vlo_pool_give() - gives pages back
 * @pool: the pool
 * @page: the first page
 * @pages: how many
 *
 * Context: Any context.
 */
void vlo_pool_give(struct vlo_pool *pool, u32 page, u32 pages)
{
	unsigned long flags;

	spin_lock_irqsave(&pool->lock, flags);
	bitmap_clear(pool->map, page, pages);
	spin_unlock_irqrestore(&pool->lock, flags);
}

static void vlo_pool_free(struct vlo_pool *pool)
{
	u32 i;

	if (!pool)
		return;
	vlo_pool_uncharge(pool);
	if (pool->base)
		vunmap(pool->base);
	for (i = 0; pool->pages && i < pool->page_count; i++)
		if (pool->pages[i])
			put_page(pool->pages[i]);
	if (!IS_ERR_OR_NULL(pool->file))
		fput(pool->file);
	if (!IS_ERR_OR_NULL(pool->ram))
		fput(pool->ram);
	bitmap_free(pool->map);
	kvfree(pool->pages);
	kfree(pool);
}

static int vlo_pool_fill(struct vlo_pool *pool)
{
	struct address_space *mapping = pool->file->f_mapping;
	struct page *page;
	u32 i;

	/* The kernel holds the pages: they cannot be moved, nor swapped out. */
	mapping_set_unevictable(mapping);
	/* A back end that could make it smaller would be killed by its own reads. */
	SHMEM_I(file_inode(pool->file))->seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
	for (i = 0; i < pool->page_count; i++) {
		page = shmem_read_mapping_page_gfp(mapping, i, VLO_POOL_GFP);
		if (IS_ERR(page))
			return PTR_ERR(page);
		pool->pages[i] = page;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	pool->base = vmap(pool->pages, pool->page_count, VM_MAP, PAGE_KERNEL);
	return pool->base ? 0 : -ENOMEM;
}

static struct vlo_pool *vlo_pool_create(struct vlo_device *device)
{
	struct vlo_pool *pool = kzalloc(sizeof(*pool), GFP_KERNEL);
	int error = -ENOMEM;

	if (!pool)
		return ERR_PTR(-ENOMEM);
	spin_lock_init(&pool->lock);
	get_random_bytes(pool->key, sizeof(pool->key));
	pool->page_count = device->pool_size >> PAGE_SHIFT;
	pool->pages = kvcalloc(pool->page_count, sizeof(*pool->pages), GFP_KERNEL);
	pool->map = bitmap_zalloc(pool->page_count, GFP_KERNEL);
	if (!pool->pages || !pool->map)
		goto fail;
	error = vlo_pool_charge(pool);
	if (error)
		goto fail;
	pool->file = vlo_shmem_file("virtio-loopback", device->pool_size);
	error = PTR_ERR_OR_ZERO(pool->file);
	if (!error)
		error = vlo_pool_fill(pool);
	if (!error && vlo_is_direct(device)) {
		pool->ram = vlo_ram_create();
		error = PTR_ERR_OR_ZERO(pool->ram);
	}
	if (error)
		goto fail;
	return pool;
fail:
	vlo_pool_free(pool);
	return ERR_PTR(error);
}

/* The back end of this session reaches the driver's memory no more. */
static void vlo_pool_cut_off(struct vlo_pool *pool)
{
	if (pool && pool->ram)
		vlo_ram_revoke(pool->ram);
}

/* Where each queue has its ring and its frames in a pool, in pages; frames at 0: none. */
struct vlo_layout {
	u32 rings[VLO_QUEUES_MAX];
	u32 frames[VLO_QUEUES_MAX];
};

/* Divides the pool among the queues that are ready. Returns -ENOSPC when it is too small. */
static int vlo_pool_divide(struct vlo_device *device, struct vlo_pool *pool,
			   struct vlo_layout *layout)
{
	u32 index, page = 0, frames = 0;
	struct vlo_vq *queue;

	for (index = 0; index < device->queue_count; index++) {
		queue = &device->queues[index];
		if (!queue->is_ready)
			continue;
		layout->rings[index] = page;
		page += DIV_ROUND_UP(vlo_ring_bytes(queue->size), PAGE_SIZE);
		frames += queue->size * VLO_FRAME_PAGES;
	}
	/* The first page is a ring's, so a place is never at page 0. */
	if (!page || page >= pool->page_count)
		return page ? -ENOSPC : -ENODATA;
	if (frames > VLO_FRAMES_SHARE(pool->page_count - page) || vlo_is_direct(device))
		frames = 0;
	pool->room = pool->page_count - page - frames;
	for (index = 0; index < device->queue_count; index++) {
		queue = &device->queues[index];
		layout->frames[index] = frames ? page : 0;
		if (frames && queue->is_ready)
			page += queue->size * VLO_FRAME_PAGES;
	}
	pool->hint = pool->page_count - pool->room;
	bitmap_set(pool->map, 0, pool->hint);
	return 0;
}

/* The back end's rings are as the driver expects them. */
static int vlo_check_session(struct vlo_device *device, const struct vlo_session *session)
{
	if (session->flags & ~VLO_S_FAIL || session->ring_features & ~VLO_RING_FEATURES ||
	    session->number || session->replayed || session->failed)
		return -EINVAL;
	if (virtio_has_feature(&device->vdev, VIRTIO_RING_F_INDIRECT_DESC) &&
	    !(session->ring_features & BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC)))
		return -EPROTONOSUPPORT;
	return 0;
}

static void vlo_begin_queue(struct vlo_vq *queue, struct vlo_pool *pool,
			    const struct vlo_layout *layout, struct vlo_session *session)
{
	u64 offset = (u64)layout->rings[queue->index] << PAGE_SHIFT;
	u32 count = vlo_queue_replay(queue);

	if (session->flags & VLO_S_FAIL && !(queue->flags & VLO_Q_INBOUND))
		session->failed += vlo_queue_fail(queue);
	else
		session->replayed += count;
	queue->pool = pool;
	queue->frames = layout->frames[queue->index];
	vlo_ring_init(&queue->ring, pool->base + offset, pool->address + offset, queue->size,
		      session->ring_features, queue->used_next);
}

/* Under device->lock: no queue is used until it is resumed. */
static void vlo_pause_all(struct vlo_device *device)
{
	u32 index;

	lockdep_assert_held(&device->lock);
	for (index = 0; index < device->queue_count; index++)
		if (device->queues[index].is_ready)
			vlo_queue_pause(&device->queues[index]);
}

static void vlo_resume_all(struct vlo_device *device)
{
	u32 index;

	lockdep_assert_held(&device->lock);
	for (index = 0; index < device->queue_count; index++)
		if (device->queues[index].is_ready)
			vlo_queue_resume(&device->queues[index]);
}

/**
 * vlo_session_start() - ends the present session and begins one with new memory
 * @device: the device
 * @session: the session, as the adapter describes it; filled in
 *
 * The module first takes from the rings what the last back end completed. It places the other
 * requests again, in the order of the driver, or fails them if the adapter asks for that.
 *
 * Context: Process context.
 *
 * Return: 0; -EINVAL: @session makes no sense; -ENODATA: the driver has no queue ready;
 * -EPROTONOSUPPORT: the driver relies on a feature of rings that the back end lacks; -ENOSPC: the
 * pool is too small for the rings; -ENODEV: the device is dead; -ENOMEM; -EINTR.
 */
int vlo_session_start(struct vlo_device *device, struct vlo_session *session)
{
	struct vlo_pool *pool, *old;
	struct vlo_layout layout;
	struct vlo_vq *queue;
	unsigned int noio;
	u32 index;
	int error;

	/* To reclaim memory may be to wait for this very device, which waits for the session. */
	noio = memalloc_noio_save();
	pool = vlo_pool_create(device);
	memalloc_noio_restore(noio);
	if (IS_ERR(pool))
		return PTR_ERR(pool);
	mutex_lock(&device->lock);
	old = pool;
	error = READ_ONCE(device->dead) ? -ENODEV : vlo_check_session(device, session);
	if (!error)
		error = vlo_pool_divide(device, pool, &layout);
	if (error)
		goto out;
	vlo_pause_all(device);
	for (index = 0; index < device->queue_count; index++)
		if (device->queues[index].is_ready)
			vlo_queue_harvest(&device->queues[index]);
	vlo_pool_cut_off(device->pool);
	old = device->pool;
	device->pool = pool;
	device->session++;
	pool->address = VLO_POOL_ADDRESS + device->session % VLO_POOL_TURNS * VLO_POOL_STRIDE;
	session->number = device->session;
	for (index = 0; index < device->queue_count; index++) {
		queue = &device->queues[index];
		if (queue->is_ready)
			vlo_begin_queue(queue, pool, &layout, session);
	}
	vlo_resume_all(device);
out:
	mutex_unlock(&device->lock);
	vlo_pool_free(old);
	return error;
}

/**
 * vlo_session_end() - ends the present session, if there is one
 * @device: the device
 *
 * The module hears no back end from then on. Requests wait for the next session, or fail where the
 * device is dead.
 *
 * Context: Takes device->lock.
 */
void vlo_session_end(struct vlo_device *device)
{
	struct vlo_pool *pool;
	u32 index;

	mutex_lock(&device->lock);
	vlo_pause_all(device);
	for (index = 0; index < device->queue_count; index++) {
		struct vlo_vq *queue = &device->queues[index];

		if (!queue->is_ready)
			continue;
		vlo_queue_harvest(queue);
		vlo_queue_replay(queue);
		queue->ring.is_active = false;
		queue->pool = NULL;
	}
	/* After this, requests of a dead device may fail: it cannot write into them any more. */
	pool = device->pool;
	vlo_pool_cut_off(pool);
	WRITE_ONCE(device->pool, NULL);
	vlo_resume_all(device);
	mutex_unlock(&device->lock);
	/*
	 * This waits for the address space of the adapter, where a page fault may wait for one of
	 * the requests that have failed only now.
	 */
	vlo_pool_free(pool);
}
