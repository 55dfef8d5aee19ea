// SPDX-License-Identifier: GPL-2.0
/*
 * Buffers of requests, copied between the driver's memory and a place in the session's pool.
 *
 *   place   | big, aligned | big, aligned | … | indirect table | small | small | …
 *           0                                 table            small
 *
 * Buffers of 512 bytes and more are big: they begin at a multiple of 512, from a page on at a page,
 * since a back end may read and write files around its cache. A place is the request's own frame,
 * or pages of the pool.
 *
 * What a device does not write must not reach the driver, for the place has held other requests.
 * "used.len" does not tell: the specification lets a device understate it (virtio 1.3, section
 * 2.7.8.2), and back ends that fail overstate it. So
 *
 *   small buffers are filled with what the driver has there, and copied back as a whole;
 *   big buffers are cleared, and get a mark in the last 8 bytes of each block of 512 bytes. A block
 *   whose mark is gone was written, up to its end, and is copied. A block whose mark is there was
 *   not: up to the claimed length the driver gets what is there, where the back end claims all of
 *   it zeros and a shorter length, and behind the claimed length its memory stays as it is.
 *
 * With VLO_Q_SECTORS the device writes whole blocks or nothing of them. Then a mark tells all, and
 * buffers are not cleared: only a device that writes a block's end and leaves holes before it
 * passes old bytes on, and it could as well have written them.
 *
 * Marks come from a keyed hash, which an application cannot guess. A write that ends inside of a
 * mark leaves the rest of the mark behind it, not another request's data.
 *
 * With VLO_F_DIRECT nothing is copied: descriptors go as they are, and so do tables of descriptors,
 * except to a packed ring, whose tables have another layout.
 */
#include <linux/siphash.h>
#include "vlo.h"

#define VLO_BLOCK	512
#define VLO_MARK_SIZE	sizeof(u64)
#define VLO_MARK_STEP	0x9e3779b97f4a7c15ULL
#define VLO_SMALL_ALIGN	8

/* Walks over the descriptors of a request, as the driver wrote them. */
struct vlo_walk {
	const struct vring_desc *table;
	u32 limit, left;
	u16 at;
	bool is_indirect;
};

static void vlo_walk_begin(struct vlo_walk *walk, const struct vlo_vq *queue, u16 head)
{
	const struct vring_desc *desc = &queue->vring.desc[head];

	walk->is_indirect = vlo_get16(desc->flags) & VRING_DESC_F_INDIRECT;
	walk->table = queue->vring.desc;
	walk->limit = queue->size;
	walk->at = head;
	if (walk->is_indirect) {
		walk->table = phys_to_virt(vlo_get64(desc->addr));
		walk->limit = vlo_get32(desc->len) / sizeof(*desc);
		walk->at = 0;
	}
	walk->left = walk->limit;
}

static bool vlo_walk_next(struct vlo_walk *walk, struct vlo_part *part)
{
	const struct vring_desc *desc;

	if (!walk->left || walk->at >= walk->limit)
		return false;
	desc = &walk->table[walk->at];
	part->origin = phys_to_virt(vlo_get64(desc->addr));
	part->size = vlo_get32(desc->len);
	part->flags = vlo_get16(desc->flags);
	part->next = vlo_get16(desc->next);
	part->index = walk->at;
	walk->at = part->next;
	walk->left = part->flags & VRING_DESC_F_NEXT ? walk->left - 1 : 0;
	return true;
}

static bool vlo_is_big(u32 size)
{
	return size >= VLO_BLOCK;
}

/* Where the next buffer of that size goes in the place. */
static u32 vlo_next_place(u32 size, u32 *small, u32 *big)
{
	u32 at;

	if (vlo_is_big(size)) {
		at = ALIGN(*big, size >= PAGE_SIZE ? PAGE_SIZE : VLO_BLOCK);
		*big = at + size;
	} else {
		at = *small;
		*small = at + ALIGN(size, VLO_SMALL_ALIGN);
	}
	return at;
}

/**
 * vlo_measure() - finds out what a request is like and how much room it takes
 * @queue: the queue
 * @head: the request, by its head in the driver's ring
 * @shape: filled in
 *
 * Context: By the owner of the avail half.
 *
 * Return: 0, or -E2BIG for a request that no pool has room for.
 */
int vlo_measure(struct vlo_vq *queue, u16 head, struct vlo_shape *shape)
{
	u64 out_bytes = 0, in_bytes = 0;
	u32 small = 0, big = 0, count = 0;
	struct vlo_walk walk;
	struct vlo_part *part = shape->parts;

	shape->out_bytes = 0;
	shape->in_bytes = 0;
	for (vlo_walk_begin(&walk, queue, head); vlo_walk_next(&walk, part); count++) {
		if (part->flags & VRING_DESC_F_WRITE)
			in_bytes += part->size;
		else
			out_bytes += part->size;
		/* Before the places can be too large to count. */
		if (out_bytes + in_bytes > VLO_POOL_SIZE_MAX)
			return -E2BIG;
		vlo_next_place(part->size, &small, &big);
		/* The last one is for those that have no room. */
		part += count < VLO_PARTS;
	}
	shape->count = count;
	shape->is_indirect = walk.is_indirect;
	shape->out_bytes = out_bytes;
	shape->in_bytes = in_bytes;
	shape->table = ALIGN(big, sizeof(struct vring_desc));
	shape->small = shape->table + (walk.is_indirect ? count * sizeof(struct vring_desc) : 0);
	shape->bytes = shape->small + small;
	return 0;
}

static void *vlo_place_of(struct vlo_vq *queue, u16 head, u64 *address)
{
	const struct vlo_request *request = &queue->requests[head];
	u64 offset = (u64)request->page << PAGE_SHIFT;

	*address = queue->pool->address + offset;
	return queue->pool->base + offset;
}

/* Whole pages have a function of their own, faster where processors lack fast strings. */
static void vlo_copy(void *to, const void *from, u32 size)
{
	if (PAGE_ALIGNED((unsigned long)to | (unsigned long)from)) {
		for (; size >= PAGE_SIZE; size -= PAGE_SIZE) {
			copy_page(to, (void *)from);
			to += PAGE_SIZE;
			from += PAGE_SIZE;
		}
	}
	memcpy(to, from, size);
}

/* Clears a big buffer in its place. */
static void vlo_clear(void *place, u32 size)
{
	for (; PAGE_ALIGNED((unsigned long)place) && size >= PAGE_SIZE; size -= PAGE_SIZE) {
		clear_page(place);
		place += PAGE_SIZE;
	}
	memset(place, 0, size);
}

/* The mark of the block that ends there. */
static u64 vlo_mark(u64 seed, u32 end)
{
	return seed + end * VLO_MARK_STEP;
}

/* The blocks of a big buffer end at multiples of 512 from its start, and at its end. */
static void vlo_mark_blocks(void *place, const void *origin, u32 size, u64 seed)
{
	u64 mark = vlo_mark(seed, VLO_BLOCK);
	u32 end, rest = size % VLO_BLOCK;

	for (end = VLO_BLOCK; end <= size; end += VLO_BLOCK) {
		put_unaligned(mark, (u64 *)(place + end - VLO_MARK_SIZE));
		mark += VLO_BLOCK * VLO_MARK_STEP;
	}
	if (rest >= VLO_MARK_SIZE)
		put_unaligned(vlo_mark(seed, size), (u64 *)(place + size - VLO_MARK_SIZE));
	else
		memcpy(place + size - rest, origin + size - rest, rest);
}

/* The first block at or behind @at that was not written to its end; @size where all were. */
static u32 vlo_find_unwritten(const void *place, u32 at, u32 size, u64 seed)
{
	u64 mark = vlo_mark(seed, at + VLO_BLOCK);

	for (; at + VLO_BLOCK <= size; at += VLO_BLOCK) {
		if (get_unaligned((const u64 *)(place + at + VLO_BLOCK - VLO_MARK_SIZE)) == mark)
			return at;
		mark += VLO_BLOCK * VLO_MARK_STEP;
	}
	/* A rest too short for a mark holds what the driver has there. */
	if (size - at >= VLO_MARK_SIZE &&
	    get_unaligned((const u64 *)(place + size - VLO_MARK_SIZE)) == vlo_mark(seed, size))
		return at;
	return size;
}

/*
 * The claimed length may end inside of a mark, of which a device has then written a part. Returns
 * the block if the rest of its mark is there; @size if there is none such.
 */
static u32 vlo_find_partial(const void *place, u32 size, u32 claimed, u64 seed)
{
	u32 at = ALIGN_DOWN(claimed, VLO_BLOCK);
	u32 end = min_t(u32, at + VLO_BLOCK, size);
	u64 mark = vlo_mark(seed, end);
	u32 written = claimed - (end - VLO_MARK_SIZE);

	if (claimed >= end || end - at < VLO_MARK_SIZE || claimed <= end - VLO_MARK_SIZE)
		return size;
	return memcmp(place + claimed, (u8 *)&mark + written, end - claimed) ? size : at;
}

/*
 * Copies back what a device wrote into a big buffer.
 * Returns how much of it was written in a row, from its start, at most @claimed.
 */
static u32 vlo_take_big(void *origin, const void *place, u32 size, u32 claimed, u64 seed)
{
	u32 partial = vlo_find_partial(place, size, claimed, seed);
	u32 start = 0, at, end, good = U32_MAX;

	for (;;) {
		at = vlo_find_unwritten(place, start, size, seed);
		if (partial >= start)
			at = min(at, partial);
		vlo_copy(origin + start, place + start, at - start);
		if (at == size)
			return min3(good, claimed, size);
		end = min_t(u32, at + VLO_BLOCK, size);
		if (claimed >= end) {
			memset(origin + at, 0, end - at);
			good = min(good, at);
		} else if (claimed > at) {
			memcpy(origin + at, place + at, claimed - at);
		}
		start = end;
	}
}

/* Puts a buffer into its place. */
static void vlo_copy_out(const struct vlo_vq *queue, const struct vlo_part *part, void *place,
			 u64 seed)
{
	if (!(part->flags & VRING_DESC_F_WRITE) || !vlo_is_big(part->size)) {
		vlo_copy(place, part->origin, part->size);
		return;
	}
	if (!(queue->flags & VLO_Q_SECTORS))
		vlo_clear(place, part->size);
	vlo_mark_blocks(place, part->origin, part->size, seed);
}

/* The back end may see the request from the end of this on: all that is known of it stands. */
static void vlo_send(struct vlo_vq *queue, u16 head, struct vlo_emit *emit)
{
	struct vlo_request *request = &queue->requests[head];

	request->count = emit->count;
	atomic_inc(&queue->sent);
	/* Who finds the state finds all that was set before it. */
	smp_store_release(&request->state, VLO_SENT);
	vlo_ring_end(emit, head);
}

/*
 * Room for a request: its frame where that is large enough, else pages. Where there are not enough,
 * the queue goes on when another request gives pages back.
 */
static int vlo_find_room(struct vlo_vq *queue, u16 head, u32 bytes)
{
	struct vlo_request *request = &queue->requests[head];
	u32 pages = DIV_ROUND_UP(bytes, PAGE_SIZE);

	request->pages = 0;
	if (queue->frames && pages <= VLO_FRAME_PAGES) {
		request->page = queue->frames + head * VLO_FRAME_PAGES;
		return 0;
	}
	if (pages > queue->pool->room)
		return -E2BIG;
	request->page = vlo_pool_take(queue->pool, pages);
	if (!request->page) {
		/* Pages given back after this look at the bit; those from before are found now. */
		set_bit(VLO_STARVED, &queue->bits);
		smp_mb__after_atomic();	/* the bit before we look again */
		request->page = vlo_pool_take(queue->pool, pages);
		if (!request->page) {
			queue->counters.starved++;
			return -ENOSPC;
		}
		clear_bit(VLO_STARVED, &queue->bits);
	}
	request->pages = pages;
	return 0;
}

/*
 * The driver's tables are laid out for a split ring. A packed ring has another layout, so its
 * tables lie in the pool.
 */
static int vlo_place_table(struct vlo_vq *queue, u16 head, u32 count, struct vlo_emit *emit)
{
	u32 bytes = count * sizeof(struct vring_desc);
	struct vlo_walk walk;
	struct vlo_part part;
	u64 address;
	int error;

	error = vlo_find_room(queue, head, bytes);
	if (error)
		return error;
	emit->table = vlo_place_of(queue, head, &address);
	for (vlo_walk_begin(&walk, queue, head); vlo_walk_next(&walk, &part);)
		vlo_ring_put(emit, 0, 0, virt_to_phys(part.origin), part.size, part.flags);
	emit->table = NULL;
	emit->count = 0;
	vlo_ring_put(emit, head, 0, address, bytes, VRING_DESC_F_INDIRECT);
	return 0;
}

static int vlo_place_direct(struct vlo_vq *queue, u16 head, const struct vlo_shape *shape)
{
	const struct vring_desc *desc = &queue->vring.desc[head];
	struct vlo_emit emit;
	struct vlo_walk walk;
	struct vlo_part part;
	int error;

	vlo_ring_begin(&emit, &queue->ring, head);
	if (shape->is_indirect && queue->ring.is_packed) {
		error = vlo_place_table(queue, head, shape->count, &emit);
		if (error)
			return error;
	} else if (shape->is_indirect) {
		vlo_ring_put(&emit, head, 0, vlo_get64(desc->addr), vlo_get32(desc->len),
			     VRING_DESC_F_INDIRECT);
	} else {
		for (vlo_walk_begin(&walk, queue, head); vlo_walk_next(&walk, &part);)
			vlo_ring_put(&emit, part.index, part.next, virt_to_phys(part.origin),
				     part.size, part.flags);
	}
	vlo_send(queue, head, &emit);
	return 0;
}

/* A request on its way into its place. */
struct vlo_placing {
	struct vlo_vq *queue;
	struct vlo_request *request;
	void *place;
	u64 address;
	u32 small, big;
	struct vlo_emit emit;
};

static void vlo_place_part(struct vlo_placing *placing, const struct vlo_part *part)
{
	struct vlo_request *request = placing->request;
	u32 at = vlo_next_place(part->size, &placing->small, &placing->big);

	vlo_copy_out(placing->queue, part, placing->place + at, request->seed);
	vlo_ring_put(&placing->emit, part->index, part->next, placing->address + at, part->size,
		     part->flags);
	if (!(part->flags & VRING_DESC_F_WRITE))
		return;
	if (request->in_count < VLO_IN_PARTS)
		request->in[request->in_count] = (struct vlo_in){ part->origin, at, part->size };
	request->in_count++;
}

/* A request with more buffers than were remembered. */
static noinline void vlo_place_chain(struct vlo_placing *placing, u16 head)
{
	struct vlo_walk walk;
	struct vlo_part part;

	for (vlo_walk_begin(&walk, placing->queue, head); vlo_walk_next(&walk, &part);)
		vlo_place_part(placing, &part);
}

/**
 * vlo_place() - copies a request into the pool and puts it into the device's ring
 * @queue: the queue
 * @head: the request, by its head in the driver's ring
 * @shape: what vlo_measure() has found
 *
 * Context: By the owner of the avail half.
 *
 * Return: 0; -ENOSPC: the pool has no room now; -E2BIG: it never has.
 */
int vlo_place(struct vlo_vq *queue, u16 head, const struct vlo_shape *shape)
{
	struct vlo_request *request = &queue->requests[head];
	struct vlo_placing placing = {
		.queue = queue, .request = request, .small = shape->small,
	};
	u32 i;
	int error;

	if (vlo_is_direct(queue->device))
		return vlo_place_direct(queue, head, shape);
	error = vlo_find_room(queue, head, shape->bytes);
	if (error)
		return error;
	request->small = shape->small;
	request->in_count = 0;
	request->seed = shape->in_bytes < VLO_BLOCK ? 0 :
			siphash_1u64(request->serial, (siphash_key_t *)queue->pool->key);
	placing.place = vlo_place_of(queue, head, &placing.address);
	vlo_ring_begin(&placing.emit, &queue->ring, head);
	if (shape->is_indirect)
		placing.emit.table = placing.place + shape->table;
	if (shape->count <= VLO_PARTS) {
		for (i = 0; i < shape->count; i++)
			vlo_place_part(&placing, &shape->parts[i]);
	} else {
		vlo_place_chain(&placing, head);
	}
	if (shape->is_indirect) {
		placing.emit.table = NULL;
		placing.emit.count = 0;
		vlo_ring_put(&placing.emit, head, 0, placing.address + shape->table,
			     shape->small - shape->table, VRING_DESC_F_INDIRECT);
	}
	vlo_send(queue, head, &placing.emit);
	return 0;
}

/**
 * vlo_gather() - copies what a request sends
 * @queue: the queue
 * @head: the request, by its head in the driver's ring
 * @bytes: where to
 *
 * Context: By the owner of the avail half.
 */
void vlo_gather(struct vlo_vq *queue, u16 head, void *bytes)
{
	struct vlo_walk walk;
	struct vlo_part part;

	for (vlo_walk_begin(&walk, queue, head); vlo_walk_next(&walk, &part); bytes += part.size)
		memcpy(bytes, part.origin, part.size);
}

/**
 * vlo_place_bytes() - vlo_place() for bytes that the module has, in one descriptor
 * @queue: the queue
 * @head: id of the request in the device's ring
 * @bytes: where from
 * @size: how many
 *
 * Context: By the owner of the avail half.
 *
 * Return: 0; -ENOSPC: the pool has no room now; -E2BIG: it never has.
 */
int vlo_place_bytes(struct vlo_vq *queue, u16 head, const void *bytes, u32 size)
{
	struct vlo_emit emit;
	u64 address;
	void *place;
	int error;

	error = vlo_find_room(queue, head, size);
	if (error)
		return error;
	queue->requests[head].in_bytes = 0;
	place = vlo_place_of(queue, head, &address);
	memcpy(place, bytes, size);
	vlo_ring_begin(&emit, &queue->ring, head);
	vlo_ring_put(&emit, head, 0, address, size, 0);
	vlo_send(queue, head, &emit);
	return 0;
}

/**
 * vlo_unplace() - gives the place of a request back
 * @queue: the queue
 * @head: the request, by its head in the driver's ring
 *
 * Context: By the owner of the request.
 */
void vlo_unplace(struct vlo_vq *queue, u16 head)
{
	struct vlo_request *request = &queue->requests[head];

	if (!request->pages)
		return;
	vlo_pool_give(queue->pool, request->page, request->pages);
	request->pages = 0;
}

/* What the back end claims to have written, over the buffers of a request. */
struct vlo_claim {
	const struct vlo_vq *queue;
	void *place;
	u64 seed;
	u32 left;			/* bytes that are claimed of the buffers still to come */
	u32 good;			/* bytes that were written in a row, so far */
	bool is_short;			/* not all that was claimed was written */
};

static void vlo_take_part(struct vlo_claim *claim, const struct vlo_in *in)
{
	u32 claimed = min(claim->left, in->size), good;

	claim->left -= claimed;
	if (claim->queue->flags & VLO_Q_SECTORS && claimed < in->size)
		claimed = ALIGN_DOWN(claimed, VLO_BLOCK);
	good = claimed;
	if (vlo_is_big(in->size))
		good = vlo_take_big(in->origin, claim->place + in->at, in->size, claimed,
				    claim->seed);
	else
		memcpy(in->origin, claim->place + in->at, in->size);
	if (!claim->is_short)
		claim->good += good;
	claim->is_short |= good != claimed;
}

/* A request with more buffers than were remembered. */
static noinline void vlo_take_chain(struct vlo_claim *claim, u16 head)
{
	u32 small = claim->queue->requests[head].small, big = 0;
	struct vlo_walk walk;
	struct vlo_part part;
	struct vlo_in in;

	for (vlo_walk_begin(&walk, claim->queue, head); vlo_walk_next(&walk, &part);) {
		in.origin = part.origin;
		in.at = vlo_next_place(part.size, &small, &big);
		in.size = part.size;
		if (part.flags & VRING_DESC_F_WRITE)
			vlo_take_part(claim, &in);
	}
}

/**
 * vlo_take_back() - copies what the device has written to the driver's buffers
 * @queue: the queue
 * @head: the request, by its head in the driver's ring
 * @used: bytes that the device claims
 *
 * Context: By the owner of the used half.
 *
 * Return: How many bytes the driver may be told of: those written in a row, from the first on.
 */
u32 vlo_take_back(struct vlo_vq *queue, u16 head, u32 used)
{
	const struct vlo_request *request = &queue->requests[head];
	struct vlo_claim claim = {
		.queue = queue, .seed = request->seed, .left = min(used, request->in_bytes),
	};
	u64 address;
	u32 i;

	if (!request->in_bytes || vlo_is_direct(queue->device))
		return claim.left;
	claim.place = vlo_place_of(queue, head, &address);
	if (request->in_count <= VLO_IN_PARTS) {
		for (i = 0; i < request->in_count; i++)
			vlo_take_part(&claim, &request->in[i]);
	} else {
		vlo_take_chain(&claim, head);
	}
	if (claim.is_short)
		queue->counters.overstated++;
	return claim.good;
}

/**
 * vlo_poison() - fills the places where drivers look for a status with 0xff
 * @queue: the queue
 * @head: the request, by its head in the driver's ring
 *
 * For a request that fails.
 *
 * Context: By the owner of the request.
 */
void vlo_poison(struct vlo_vq *queue, u16 head)
{
	struct vlo_walk walk;
	struct vlo_part part;

	for (vlo_walk_begin(&walk, queue, head); vlo_walk_next(&walk, &part);)
		if (part.flags & VRING_DESC_F_WRITE && !vlo_is_big(part.size))
			memset(part.origin, 0xff, part.size);
}
