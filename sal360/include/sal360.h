/* sal360.h: where people would look in a 360 degree picture, by ray, from the shared memory that saliency_node writes.
 *
 * Header only, C99 or C++98 and later, Linux, GCC or Clang; link with -lm. The node writes while its parameter `shm` is
 * true. docs/shared_memory.md describes the memory, and has an example. Licence: Apache-2.0.
 *
 *     sal360_ring ring;
 *     sal360_map map = SAL360_NO_MAP_YET;
 *     sal360_open(&ring, "/saliency");
 *     each frame:
 *         sal360_read(&ring, &map);
 *         density = sal360_lookup(&map, SAL360_OPENXR, x, y, z);
 *     sal360_map_free(&map);
 *     sal360_close(&ring);
 *
 * A ring and a map belong to one thread at a time; several threads may look up in one map while none reads into it.
 * Nothing here writes to the shared memory or waits for the node, so a reader cannot disturb it.
 * Names that end with an underscore are internal.
 */
#ifndef SAL360_H
#define SAL360_H

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* Layout of the shared memory; readers refuse every other version. */
#define SAL360_LAYOUT_VERSION 1

#ifndef SAL360_FOLDER
#define SAL360_FOLDER "/dev/shm"
#endif

/* Results of functions. Negative ones are errors: nothing was read, and a map that was read before stays as it was. */
enum {
    SAL360_OK = 0,
    SAL360_UNCHANGED = 1, /* no newer map than the one that was read last */
    SAL360_NO_RING = -1,
    SAL360_NO_MAP = -2,
    SAL360_BAD_NAME = -3,
    SAL360_NO_PERMISSION = -4,
    SAL360_NOT_A_RING = -5,
    SAL360_OTHER_VERSION = -6,
    SAL360_DAMAGED = -7,
    SAL360_BUSY = -8,
    SAL360_NO_MEMORY = -9,
    SAL360_SYSTEM_ERROR = -10
};

/* Axes of a ray. */
typedef enum {
    SAL360_BODY = 0,    /* REP-103: x forward, y left, z up */
    SAL360_OPTICAL = 1, /* REP-103 _optical_frame: x right, y down, z forward */
    SAL360_OPENXR = 2,  /* OpenXR and OpenGL: x right, y up, z back */
    SAL360_OPENGL = 2
} sal360_axes;

/* A connection to the shared memory of one topic. */
typedef struct {
    char path[288];
    const unsigned char *bytes; /* NULL while there is none */
    size_t size;
    int file;
    uint32_t slots, slot_bytes;
    uint64_t writer;
} sal360_ring;

/* One map, copied out of the shared memory. */
typedef struct {
    uint64_t number;         /* 1 for the node's first map; 0 before the first was read */
    uint64_t writer;         /* another value after the node has started again */
    int64_t stamp_ns;        /* stamp of the source frame, as in `saliency` */
    int64_t written_ns;      /* when the map was written, by CLOCK_MONOTONIC */
    uint32_t width, height;  /* pixels; equirectangular */
    float full_scale;        /* the node's parameter: the density of the brightest 8-bit value */
    float yaw_offset_rad;    /* azimuth of the map's middle in frame_id; sal360_lookup takes it into account */
    sal360_axes frame_axes;  /* axes of frame_id: the node's parameter frame_convention */
    int has_up;              /* whether the camera's tilt is known */
    float up[3];             /* unit vector, body axes of frame_id */
    int has_orientation;     /* whether the camera's orientation is known; the node measures its yaw */
    float orientation[9];    /* rows of the rotation from body axes of frame_id to a fixed frame */
    char frame_id[152];
    float *values;           /* (height + 2) rows of width + 2; the border continues the map on the sphere */
    float *spare;            /* internal, as are the following */
    size_t room, spare_room;
    float columns_per_rad, first_column, rows_per_rad, first_row;
} sal360_map;

#define SAL360_NO_MAP_YET \
    { 0, 0, 0, 0, 0, 0, 0, 0, SAL360_BODY, 0, {0, 0, 0}, 0, {0, 0, 0, 0, 0, 0, 0, 0, 0}, {0}, NULL, NULL, 0, 0, 0, 0, 0, 0 }

/* --- the shared memory --- */

#define SAL360_OPEN_ 1u
#define SAL360_BYTE_ORDER_ 0x01020304u
#define SAL360_HAS_UP_ 1u
#define SAL360_HAS_ORIENTATION_ 2u

/* At the beginning of the file, followed by `slots` slots of `slot_bytes`. */
typedef struct {
    char magic[8]; /* "sal360sm" */
    uint32_t version;
    uint32_t byte_order;
    uint32_t header_bytes; /* of this struct: where the first slot begins */
    uint32_t slots;
    uint32_t slot_bytes;
    uint32_t state;  /* 1: in use; 2: closed, and a newer one may have the name */
    uint64_t newest; /* number n of the newest map, in the slot (n - 1) % slots; 0: none */
    uint64_t writer; /* drawn at random */
    uint32_t process;
    char topic[204];
} sal360_ring_header_;

/* At the beginning of a slot, followed by the map, float32, row by row. */
typedef struct {
    uint64_t sequence; /* 2 n - 1 while the map n is being written, 2 n when it is whole */
    uint64_t number;
    int64_t stamp_ns;
    int64_t written_ns;
    uint32_t width;
    uint32_t height;
    uint32_t flags;
    uint32_t frame_axes;
    float full_scale;
    float yaw_offset_rad;
    float up[3];
    float orientation[9];
    char frame_id[152];
} sal360_slot_header_;

/* The path of a topic's shared memory: / becomes a dot, and a ROS domain other than 0 stands before it. */
static inline int sal360_path_(const char *name, char *path, size_t room) {
    const char *domain = getenv("ROS_DOMAIN_ID");
    unsigned long number = domain != NULL ? strtoul(domain, NULL, 10) : 0;
    char digits[24];
    size_t count = 0, at;
    if (name == NULL) return SAL360_BAD_NAME;
    if (*name == '/') name++;
    for (; number > 0 && count < sizeof digits; number /= 10) digits[count++] = (char)('0' + number % 10);
    at = sizeof SAL360_FOLDER "/sal360." - 1;
    if (strlen(name) == 0 || at + count + 1 + strlen(name) >= room) return SAL360_BAD_NAME;
    memcpy(path, SAL360_FOLDER "/sal360.", at);
    if (count > 0) {
        while (count > 0) path[at++] = digits[--count];
        path[at++] = '.';
    }
    for (; *name != '\0'; name++) {
        int is_word = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
                      (*name >= '0' && *name <= '9') || *name == '_';
        if (!is_word && (*name != '/' || path[at - 1] == '.' || name[1] == '\0')) return SAL360_BAD_NAME;
        path[at++] = is_word ? *name : '.';
    }
    path[at] = '\0';
    return SAL360_OK;
}

static inline void sal360_disconnect_(sal360_ring *ring) {
    if (ring->bytes != NULL) {
        munmap((void *)(uintptr_t)ring->bytes, ring->size);
        close(ring->file);
    }
    ring->bytes = NULL;
    ring->size = 0;
    ring->file = -1;
}

static inline int sal360_check_(const unsigned char *bytes, size_t size) {
    const sal360_ring_header_ *header = (const sal360_ring_header_ *)(const void *)bytes;
    if (memcmp(header->magic, "sal360sm", 8) != 0) return SAL360_NOT_A_RING;
    if (header->version != SAL360_LAYOUT_VERSION) return SAL360_OTHER_VERSION;
    if (header->byte_order != SAL360_BYTE_ORDER_ || header->header_bytes != sizeof *header || header->slots < 2 || header->slot_bytes % 8 != 0 ||
        header->slot_bytes <= sizeof(sal360_slot_header_) ||
        header->header_bytes + (uint64_t)header->slots * header->slot_bytes > size) {
        return SAL360_DAMAGED;
    }
    return SAL360_OK;
}

static inline int sal360_connect_(sal360_ring *ring) {
    const sal360_ring_header_ *header;
    struct stat about;
    void *bytes;
    int file, status, flags = O_RDONLY;
#ifdef O_CLOEXEC
    flags |= O_CLOEXEC;
#endif
#ifdef O_NONBLOCK
    flags |= O_NONBLOCK; /* a pipe of this name must not block */
#endif
    file = open(ring->path, flags);
    if (file < 0) {
        if (errno == ENOENT) return SAL360_NO_RING;
        return errno == EACCES || errno == EPERM ? SAL360_NO_PERMISSION : SAL360_SYSTEM_ERROR;
    }
    if (fstat(file, &about) != 0) {
        close(file);
        return SAL360_SYSTEM_ERROR;
    }
    if (!S_ISREG(about.st_mode) || about.st_size < (off_t)sizeof(sal360_ring_header_)) {
        close(file);
        return S_ISREG(about.st_mode) && about.st_size == 0 ? SAL360_NO_RING /* a writer is about to replace it */
                                                            : SAL360_NOT_A_RING;
    }
    bytes = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, file, 0);
    if (bytes == MAP_FAILED) {
        close(file);
        return SAL360_SYSTEM_ERROR;
    }
    status = sal360_check_((const unsigned char *)bytes, (size_t)about.st_size);
    if (status != SAL360_OK) {
        munmap(bytes, (size_t)about.st_size);
        close(file);
        return status;
    }
    header = (const sal360_ring_header_ *)bytes;
    ring->bytes = (const unsigned char *)bytes;
    ring->size = (size_t)about.st_size;
    ring->file = file;
    ring->slots = header->slots;
    ring->slot_bytes = header->slot_bytes;
    ring->writer = header->writer;
    return SAL360_OK;
}

/* Copies words that another process may be writing: relaxed atomic loads, so that a torn copy is no undefined behaviour. */
static inline void sal360_copy_(void *target, const unsigned char *source, size_t size) {
    unsigned char *to = (unsigned char *)target;
    size_t at = 0;
    if (((uintptr_t)source & 7u) == 0) {
        for (; at + 8 <= size; at += 8) {
            uint64_t word = __atomic_load_n((const uint64_t *)(const void *)(source + at), __ATOMIC_RELAXED);
            memcpy(to + at, &word, 8);
        }
    }
    for (; at < size; at += 4) {
        uint32_t word = __atomic_load_n((const uint32_t *)(const void *)(source + at), __ATOMIC_RELAXED);
        memcpy(to + at, &word, 4);
    }
}

/* Makes room for a map of this size in the spare buffer. */
static inline int sal360_reserve_(sal360_map *map, size_t values) {
    float *larger;
    if (map->spare_room >= values) return SAL360_OK;
    larger = (float *)realloc(map->spare, values * sizeof(float));
    if (larger == NULL) return SAL360_NO_MEMORY;
    map->spare = larger;
    map->spare_room = values;
    return SAL360_OK;
}

/* The row beyond a pole: the last one, half a turn away. */
static inline void sal360_beyond_pole_(float *beyond, const float *row, size_t width) {
    size_t half = width / 2, column;
    for (column = 0; column < width; column++) {
        float value = row[1 + (column + width - half) % width];
        if (width % 2 != 0) value = 0.5f * (value + row[1 + (column + 2 * width - half - 1) % width]);
        beyond[1 + column] = value;
    }
}

/* The border of one pixel that continues a map over the seam and the poles. */
static inline void sal360_continue_(float *values, size_t width, size_t height) {
    size_t stride = width + 2, row;
    sal360_beyond_pole_(values, values + stride, width);
    sal360_beyond_pole_(values + (height + 1) * stride, values + height * stride, width);
    for (row = 0; row < height + 2; row++) {
        values[row * stride] = values[row * stride + width];
        values[row * stride + width + 1] = values[row * stride + 1];
    }
}

/* Copies a slot's map into the spare buffer. */
static inline int sal360_copy_map_(sal360_map *map, const unsigned char *slot, const sal360_slot_header_ *header,
                                   size_t slot_bytes) {
    size_t width = header->width, height = header->height, row;
    const unsigned char *source = slot + sizeof *header;
    int status;
    if (width < 1 || height < 1 || width > 65535 || height > 65535 || header->frame_axes > 2 ||
        (uint64_t)width * height * sizeof(float) > slot_bytes - sizeof *header) {
        return SAL360_DAMAGED;
    }
    status = sal360_reserve_(map, (width + 2) * (height + 2));
    if (status != SAL360_OK) return status;
    for (row = 0; row < height; row++) {
        sal360_copy_(map->spare + (row + 1) * (width + 2) + 1, source + row * width * sizeof(float),
                     width * sizeof(float));
    }
    return SAL360_OK;
}

/* Makes the spare buffer and a slot's header the map. */
static inline void sal360_take_(sal360_map *map, const sal360_slot_header_ *header, uint64_t writer) {
    const float pi = 3.14159265358979f;
    float *values = map->spare;
    size_t room = map->spare_room;
    map->spare = map->values;
    map->spare_room = map->room;
    map->values = values;
    map->room = room;
    map->number = header->number;
    map->writer = writer;
    map->stamp_ns = header->stamp_ns;
    map->written_ns = header->written_ns;
    map->width = header->width;
    map->height = header->height;
    map->full_scale = header->full_scale;
    map->yaw_offset_rad = header->yaw_offset_rad;
    map->frame_axes = (sal360_axes)header->frame_axes;
    map->has_up = (header->flags & SAL360_HAS_UP_) != 0;
    memcpy(map->up, header->up, sizeof map->up);
    map->has_orientation = (header->flags & SAL360_HAS_ORIENTATION_) != 0;
    memcpy(map->orientation, header->orientation, sizeof map->orientation);
    memcpy(map->frame_id, header->frame_id, sizeof map->frame_id);
    map->frame_id[sizeof map->frame_id - 1] = '\0';
    map->columns_per_rad = (float)map->width / (2.0f * pi);
    map->rows_per_rad = (float)map->height / pi;
    map->first_column = (pi + map->yaw_offset_rad) * map->columns_per_rad + 0.5f; /* - 1/2, and + 1 for the border */
    map->first_row = 0.5f * (float)map->height + 0.5f;
    sal360_continue_(map->values, map->width, map->height);
}

static inline int sal360_read_newest_(const sal360_ring *ring, sal360_map *map) {
    const sal360_ring_header_ *header = (const sal360_ring_header_ *)(const void *)ring->bytes;
    int attempt;
    for (attempt = 0; attempt < 1000; attempt++) {
        uint64_t newest = __atomic_load_n(&header->newest, __ATOMIC_ACQUIRE), before, after;
        const unsigned char *slot;
        const uint64_t *sequence;
        sal360_slot_header_ copy;
        int status;
        if (newest == 0) return SAL360_NO_MAP;
        if (map->writer == ring->writer && map->number == newest) return SAL360_UNCHANGED;
        slot = ring->bytes + sizeof *header + (size_t)((newest - 1) % ring->slots) * ring->slot_bytes;
        sequence = (const uint64_t *)(const void *)slot;
        before = __atomic_load_n(sequence, __ATOMIC_ACQUIRE);
        if (before != 2 * newest) continue; /* the writer has come round meanwhile */
        sal360_copy_(&copy, slot, sizeof copy);
        status = sal360_copy_map_(map, slot, &copy, ring->slot_bytes);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        after = __atomic_load_n(sequence, __ATOMIC_RELAXED);
        if (before != after) continue; /* torn */
        if (status != SAL360_OK) return status;
        sal360_take_(map, &copy, ring->writer);
        return SAL360_OK;
    }
    return SAL360_BUSY;
}

/* --- what programs call --- */

/* Connects to the maps of a topic: its full name on the ROS graph, such as "/saliency" or "/front/saliency".
 *
 * The names belong to a ROS domain: the reader needs the node's ROS_DOMAIN_ID. SAL360_NO_RING is no reason to stop: the
 * ring is ready, and sal360_read connects as soon as the node is there.
 */
static inline int sal360_open(sal360_ring *ring, const char *name) {
    int status;
    ring->bytes = NULL;
    ring->size = 0;
    ring->file = -1;
    status = sal360_path_(name, ring->path, sizeof ring->path);
    if (status != SAL360_OK) {
        ring->path[0] = '\0';
        return status;
    }
    return sal360_connect_(ring);
}

/* Disconnects. */
static inline void sal360_close(sal360_ring *ring) { sal360_disconnect_(ring); }

/* Copies the newest map, if it is another than the one in `map`.
 *
 * `map` begins as SAL360_NO_MAP_YET and is used for all reads. The map is whole, and stays the same until the next read.
 * When the node has ended, the last map stays; when it has started again, the ring connects to the new one. Costs some
 * microseconds for a new map and some nanoseconds without one; never waits for the node.
 */
static inline int sal360_read(sal360_ring *ring, sal360_map *map) {
    const sal360_ring_header_ *header = (const sal360_ring_header_ *)(const void *)ring->bytes;
    if (ring->path[0] == '\0') return SAL360_BAD_NAME;
    if (header != NULL && __atomic_load_n(&header->state, __ATOMIC_ACQUIRE) != SAL360_OPEN_) sal360_disconnect_(ring);
    if (ring->bytes == NULL) {
        int status = sal360_connect_(ring);
        if (status != SAL360_OK) return status;
    }
    return sal360_read_newest_(ring, map);
}

/* Whether the process that writes the maps is alive: it holds a lock on the file, which the kernel frees when it ends. */
static inline int sal360_writer_is_alive(const sal360_ring *ring) {
    struct flock lock;
    if (ring->bytes == NULL) return 0;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_RDLCK;
    lock.l_whence = SEEK_SET;
    return fcntl(ring->file, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* Frees what sal360_read allocated; the map is then as before the first read. */
static inline void sal360_map_free(sal360_map *map) {
    free(map->values);
    free(map->spare);
    memset(map, 0, sizeof *map);
}

/* The density along a ray from the camera, relative to uniform: 4 means four times as likely as the average direction.
 *
 * The ray may have any length above 0 and is in the axes of frame_id, or in what they are called in another convention.
 * Bilinear, over the seam and the poles. 1, the average, before the first map; NaN for a ray with a NaN.
 */
static inline float sal360_lookup(const sal360_map *map, sal360_axes axes, float x, float y, float z) {
    float forward, left, up, column, row, right_share, lower_share, upper, lower, width = (float)map->width;
    const float *at;
    if (map->values == NULL) return 1.0f;
    switch (axes) {
        case SAL360_OPTICAL:
            forward = z;
            left = -x;
            up = -y;
            break;
        case SAL360_OPENXR:
            forward = -z;
            left = -x;
            up = y;
            break;
        default:
            forward = x;
            left = y;
            up = z;
            break;
    }
    column = map->first_column - atan2f(left, forward) * map->columns_per_rad;
    if (column < 0.5f || column >= width + 0.5f) column -= width * floorf((column - 0.5f) / width);
    row = map->first_row -
          atan2f(up, (float)sqrt((double)forward * forward + (double)left * left)) * map->rows_per_rad;
    if (!(column >= 0.0f && column <= width + 1.0f && row >= 0.0f && row <= (float)map->height + 1.0f)) return NAN;
    {
        size_t left_column = (size_t)column, upper_row = (size_t)row;
        if (left_column > map->width) left_column = map->width;
        if (upper_row > map->height) upper_row = map->height;
        right_share = column - (float)left_column;
        lower_share = row - (float)upper_row;
        at = map->values + upper_row * (map->width + (size_t)2) + left_column;
    }
    upper = at[0] + right_share * (at[1] - at[0]);
    at += map->width + (size_t)2;
    lower = at[0] + right_share * (at[1] - at[0]);
    return upper + lower_share * (lower - upper);
}

/* sal360_lookup for `count` rays x, y, z. */
static inline void sal360_lookup_rays(const sal360_map *map, sal360_axes axes, const float *rays, size_t count,
                                      float *densities) {
    size_t index;
    for (index = 0; index < count; index++) {
        densities[index] = sal360_lookup(map, axes, rays[3 * index], rays[3 * index + 1], rays[3 * index + 2]);
    }
}

/* The first pixel of a row, 0 to height - 1, for textures; rows lie width + 2 floats apart. NULL before the first map. */
static inline const float *sal360_row(const sal360_map *map, uint32_t row) {
    return map->values == NULL ? NULL : map->values + (row + (size_t)1) * (map->width + (size_t)2) + 1;
}

/* The map as 8-bit values, height rows of width, as in the topic with the encoding mono8: 255 means full_scale or more. */
static inline void sal360_to_mono8(const sal360_map *map, unsigned char *pixels) {
    uint32_t row, column;
    for (row = 0; row < map->height; row++) {
        const float *values = sal360_row(map, row);
        for (column = 0; column < map->width; column++) {
            float value = rintf(values[column] * (255.0f / map->full_scale));
            *pixels++ = (unsigned char)(value >= 255.0f ? 255 : value >= 0.0f ? (int)value : 0);
        }
    }
}

/* What a status means and what to do about it, in one line. */
static inline const char *sal360_strerror(int status) {
    switch (status) {
        case SAL360_OK: return "success";
        case SAL360_UNCHANGED: return "no newer map has been written yet";
        case SAL360_NO_RING:
            return "there is no shared memory of this name; set the node's parameter shm, and use its ROS_DOMAIN_ID here";
        case SAL360_NO_MAP: return "no map has been written yet; activate the node, and check that its camera sends frames";
        case SAL360_BAD_NAME: return "this is not the full name of a topic; use one such as /front/saliency";
        case SAL360_NO_PERMISSION:
            return "the shared memory belongs to another user; read as that user, or set the node's shm_readers";
        case SAL360_NOT_A_RING: return "the file of this name was not written by sal360; remove it from " SAL360_FOLDER;
        case SAL360_OTHER_VERSION:
            return "the shared memory has another layout version; compile with the sal360.h of the node's sal360";
        case SAL360_DAMAGED: return "the shared memory is damaged; start the node again";
        case SAL360_BUSY: return "maps are written faster than this program can read them; read again";
        case SAL360_NO_MEMORY: return "there is not enough memory for a copy of the map; close other programs";
        case SAL360_SYSTEM_ERROR: return "the shared memory cannot be opened; errno has the cause";
        default: return "this is not a status of sal360.h";
    }
}

#endif
