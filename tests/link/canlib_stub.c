/* A libcanlib with made-up hardware, for tests of the real `canlib` package and python-can's kvaser backend.
 *
 * All channels are wired to one cable. A frame written on a handle arrives at the handles of other channels
 * that are on bus and, where local echo is on, at other handles of its own channel; never at its own handle.
 *
 * Environment: CANLIB_STUB_CHANNELS (default 2; the one after the last is virtual), CANLIB_STUB_TAKEN (a
 * channel that another program holds for itself), CANLIB_STUB_BITRATE (all channels were set to it by another
 * program, which keeps init access). Calls of the tests: stub_unplug, stub_fill.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, PARAM = -1, NOMSG = -2, NOTFOUND = -3, NOCHANNELS = -5, NOHANDLES = -9, INVHANDLE = -10,
       TXBUFOFL = -13, NOCARD = -26, NOT_IMPLEMENTED = -32 };
enum { RTR = 1, EXT = 4, ERROR_FRAME = 0x20, FDF = 0x10000 };
enum { OPEN_EXCLUSIVE = 8, OPEN_NO_INIT = 0x100, OPEN_FD = 0x400 };
enum { CHANNELS = 8, HANDLES = 32, QUEUE = 8192 };

typedef struct { long id; unsigned flags, length; unsigned long time; unsigned char data[64]; } Frame;
typedef struct {
    int used, channel, on_bus, fd, echo, has_init;
    unsigned code[2], mask[2];
    unsigned first, count;
    Frame queue[QUEUE];
} Handle;

static Handle handles[HANDLES];
static struct { int handles, init_taken, fd, unplugged, exclusive; long bitrate, data_bitrate; } channels[CHANNELS];
static int full;
static struct timespec started;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
static int number_of_channels(void) {
    int wanted = setting("CANLIB_STUB_CHANNELS", 2);
    return wanted ? wanted + 1 : 0;
}
static unsigned long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (t.tv_sec - started.tv_sec) * 1000000UL + (t.tv_nsec - started.tv_nsec) / 1000;
}
static Handle *handle_of(int h) { return h >= 0 && h < HANDLES && handles[h].used ? &handles[h] : NULL; }
static long rate_of(long freq) {
    static const long classic[] = {1000000, 500000, 250000, 125000, 100000, 62000, 50000, 83000, 10000};
    static const long fd[] = {500000, 1000000, 2000000, 4000000, 8000000};
    if (freq > 0) return freq;
    if (freq < 0 && freq >= -9) return classic[-freq - 1];
    if (freq <= -1000 && freq >= -1004) return fd[-freq - 1000];
    return 0;
}

void stub_unplug(int channel, int gone) {
    pthread_mutex_lock(&lock);
    channels[channel].unplugged = gone;
    pthread_cond_broadcast(&arrived);
    pthread_mutex_unlock(&lock);
}
void stub_fill(int frames) { full = frames; } /* the next frames find the transmit buffer full */

void canInitializeLibrary(void) {
    if (!started.tv_sec) clock_gettime(CLOCK_MONOTONIC, &started);
}
int canEnumHardwareEx(int *count) { *count = number_of_channels(); return OK; }
int canGetNumberOfChannels(int *count) { *count = number_of_channels(); return OK; }
short canGetVersion(void) { return 0x0530; }
unsigned canGetVersionEx(unsigned item) { return item == 2 ? 0 : 0x0530; }

int canGetErrorText(int code, char *buffer, unsigned size) {
    const char *text = code == NOTFOUND ? "Specified device not found" : code == NOCHANNELS ? "No channels available"
        : code == PARAM ? "Error in parameter" : code == TXBUFOFL ? "Transmit buffer overflow"
        : code == NOCARD ? "The card was removed or not inserted" : code == INVHANDLE ? "Handle is invalid"
        : code == NOT_IMPLEMENTED ? "Not implemented" : "Unknown error";
    snprintf(buffer, size, "%s", text);
    return OK;
}

int canGetChannelData(int channel, int item, void *buffer, size_t size) {
    if (channel < 0 || channel >= number_of_channels()) return NOTFOUND;
    int is_virtual = channel == number_of_channels() - 1;
    memset(buffer, 0, size);
    if (item == 1) *(unsigned *)buffer = is_virtual ? 0x10001 : 1;
    else if (item == 3) *(unsigned *)buffer = channels[channel].fd ? 4 : 0;
    else if (item == 6) *(unsigned *)buffer = is_virtual ? 0 : channel;
    else if (item == 7) *(unsigned long long *)buffer = is_virtual ? 0 : 10243;
    else if (item == 26) snprintf(buffer, size, is_virtual ? "Kvaser Virtual CAN" : "Kvaser U100 stub");
    else return NOT_IMPLEMENTED;
    return OK;
}

int canGetHandleData(int h, int item, void *buffer, size_t size) {
    Handle *one = handle_of(h);
    return one ? canGetChannelData(one->channel, item, buffer, size) : INVHANDLE;
}

int canOpenChannel(int channel, int flags) {
    if (channel < 0 || channel >= number_of_channels()) return NOTFOUND;
    if (channels[channel].unplugged) return NOCARD;
    if (channel == setting("CANLIB_STUB_TAKEN", -1) || channels[channel].exclusive) return NOCHANNELS;
    int fd = (flags & OPEN_FD) != 0, free_one = -1;
    pthread_mutex_lock(&lock);
    for (int h = 0; h < HANDLES && free_one < 0; h++) if (!handles[h].used) free_one = h;
    if (free_one < 0 || (channels[channel].handles && channels[channel].fd != fd)) {
        pthread_mutex_unlock(&lock);
        return free_one < 0 ? NOHANDLES : NOCHANNELS;
    }
    Handle *one = &handles[free_one];
    memset(one, 0, sizeof *one);
    one->used = 1, one->channel = channel, one->fd = fd, one->echo = 1;
    if (!channels[channel].handles++) {
        long set = setting("CANLIB_STUB_BITRATE", 0);
        channels[channel].fd = fd;
        channels[channel].bitrate = set ? set : 500000;
        channels[channel].data_bitrate = set ? set : 500000;
        channels[channel].init_taken = set != 0;
    }
    if (!(flags & OPEN_NO_INIT) && !channels[channel].init_taken)
        one->has_init = channels[channel].init_taken = 1;
    if (flags & OPEN_EXCLUSIVE) channels[channel].exclusive = 1;
    pthread_mutex_unlock(&lock);
    return free_one;
}

int canClose(int h) {
    Handle *one = handle_of(h);
    if (!one) return INVHANDLE;
    pthread_mutex_lock(&lock);
    if (one->has_init) channels[one->channel].init_taken = 0;
    if (!--channels[one->channel].handles) channels[one->channel].exclusive = 0;
    one->used = 0;
    pthread_mutex_unlock(&lock);
    return OK;
}

static int set_bus(int h, int on) {
    Handle *one = handle_of(h);
    if (!one) return INVHANDLE;
    if (channels[one->channel].unplugged) return NOCARD;
    one->on_bus = on;
    return OK;
}
int canBusOn(int h) { return set_bus(h, 1); }
int canBusOff(int h) { return set_bus(h, 0); }
int canSetBusOutputControl(int h, unsigned mode) { (void)mode; return handle_of(h) ? OK : INVHANDLE; }

int canSetBusParams(int h, long freq, unsigned t1, unsigned t2, unsigned sjw, unsigned samples, unsigned sync) {
    Handle *one = handle_of(h);
    (void)t1, (void)t2, (void)sjw, (void)samples, (void)sync;
    if (!one) return INVHANDLE;
    if (!rate_of(freq)) return PARAM;
    if (one->has_init) channels[one->channel].bitrate = rate_of(freq); /* without init access: ignored */
    return OK;
}
int canSetBusParamsFd(int h, long freq, unsigned t1, unsigned t2, unsigned sjw) {
    Handle *one = handle_of(h);
    (void)t1, (void)t2, (void)sjw;
    if (!one) return INVHANDLE;
    if (!one->fd || !rate_of(freq)) return PARAM;
    if (one->has_init) channels[one->channel].data_bitrate = rate_of(freq);
    return OK;
}
int canGetBusParams(int h, long *freq, unsigned *t1, unsigned *t2, unsigned *sjw, unsigned *samples, unsigned *sync) {
    Handle *one = handle_of(h);
    if (!one) return INVHANDLE;
    *freq = channels[one->channel].bitrate, *t1 = 15, *t2 = 4, *sjw = 4, *samples = 1, *sync = 0;
    return OK;
}
int canGetBusParamsFd(int h, long *freq, unsigned *t1, unsigned *t2, unsigned *sjw) {
    Handle *one = handle_of(h);
    if (!one || !one->fd) return INVHANDLE;
    *freq = channels[one->channel].data_bitrate, *t1 = 15, *t2 = 4, *sjw = 4;
    return OK;
}

int canIoCtl(int h, unsigned function, void *buffer, unsigned size) {
    Handle *one = handle_of(h);
    if (!one) return INVHANDLE;
    if (function == 32 && buffer && size) one->echo = *(char *)buffer;
    return OK;
}
int canSetAcceptanceFilter(int h, unsigned code, unsigned mask, int extended) {
    Handle *one = handle_of(h);
    if (!one) return INVHANDLE;
    one->code[!!extended] = code, one->mask[!!extended] = mask;
    return OK;
}

static void deliver(Handle *to, const Frame *frame) {
    int extended = (frame->flags & EXT) != 0;
    if (((unsigned)frame->id ^ to->code[extended]) & to->mask[extended]) return;
    if (to->count == QUEUE) to->first = (to->first + 1) % QUEUE, to->count--; /* overrun */
    to->queue[(to->first + to->count++) % QUEUE] = *frame;
}

int canWrite(int h, long id, const void *data, unsigned length, unsigned flags) {
    Handle *from = handle_of(h);
    if (!from) return INVHANDLE;
    if (channels[from->channel].unplugged) return NOCARD;
    if (length > (flags & FDF ? 64 : 8) || ((flags & FDF) && !from->fd)) return PARAM;
    if (length > 8 && length % 4) return PARAM;
    if (full > 0) { full--; return TXBUFOFL; }
    Frame frame = {.id = id, .flags = flags, .length = length, .time = now_us() / 10};
    memcpy(frame.data, data, length);
    pthread_mutex_lock(&lock);
    for (int n = 0; n < HANDLES; n++) {
        Handle *to = &handles[n];
        if (n == h || !to->used || !to->on_bus || (to->channel == from->channel && !to->echo)) continue;
        if ((flags & FDF) && !to->fd) continue;
        deliver(to, &frame);
    }
    pthread_cond_broadcast(&arrived);
    pthread_mutex_unlock(&lock);
    return OK;
}

int canReadWait(int h, long *id, void *data, unsigned *length, unsigned *flags, unsigned long *time,
                unsigned long timeout_ms) {
    Handle *one = handle_of(h);
    if (!one) return INVHANDLE;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000, until.tv_nsec += timeout_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    int status = OK;
    pthread_mutex_lock(&lock);
    while (!one->count && !channels[one->channel].unplugged && status != ETIMEDOUT)
        status = pthread_cond_timedwait(&arrived, &lock, &until);
    if (one->count) {
        Frame *frame = &one->queue[one->first];
        *id = frame->id, *length = frame->length, *flags = frame->flags, *time = frame->time;
        memcpy(data, frame->data, frame->length);
        one->first = (one->first + 1) % QUEUE, one->count--;
        status = OK;
    } else status = channels[one->channel].unplugged ? NOCARD : NOMSG;
    pthread_mutex_unlock(&lock);
    return status;
}
int canWriteSync(int h, unsigned long timeout_ms) { (void)timeout_ms; return handle_of(h) ? OK : INVHANDLE; }
int kvReadTimer(int h, unsigned *time) { *time = now_us() / 10; return handle_of(h) ? OK : INVHANDLE; }

/* What the packages look up when they are imported and the tests do not call. */
#define ABSENT(name) int name(void) { return NOT_IMPLEMENTED; }
ABSENT(canAccept) ABSENT(canGetBusOutputControl) ABSENT(canGetBusParamsTq) ABSENT(canGetBusParamsFdTq)
ABSENT(canGetBusStatistics) ABSENT(canRequestBusStatistics) ABSENT(canObjBufAllocate)
ABSENT(canObjBufDisable) ABSENT(canObjBufEnable) ABSENT(canObjBufFree) ABSENT(canObjBufFreeAll)
ABSENT(canObjBufSendBurst) ABSENT(canObjBufSetFilter) ABSENT(canObjBufSetFlags) ABSENT(canObjBufSetMsgCount)
ABSENT(canObjBufSetPeriod) ABSENT(canObjBufWrite) ABSENT(canReadErrorCounters) ABSENT(canReadSpecificSkip)
ABSENT(canReadStatus) ABSENT(canReadSyncSpecific) ABSENT(canRequestChipStatus) ABSENT(canSetBusParamsC200)
ABSENT(canSetBusParamsTq) ABSENT(canSetBusParamsFdTq) ABSENT(canTranslateBaud) ABSENT(canUnloadLibrary)
ABSENT(canWriteWait) ABSENT(kvAnnounceIdentityEx) ABSENT(kvBitrateToBusParamsTq) ABSENT(kvBitrateToBusParamsFdTq)
ABSENT(kvDeviceGetMode) ABSENT(kvDeviceSetMode) ABSENT(kvFileCopyFromDevice) ABSENT(kvFileCopyToDevice)
ABSENT(kvFileDelete) ABSENT(kvFileDiskFormat) ABSENT(kvFileGetCount) ABSENT(kvFileGetName) ABSENT(kvFlashLeds)
ABSENT(kvIoConfirmConfig) ABSENT(kvIoGetNumberOfPins) ABSENT(kvIoPinGetAnalog) ABSENT(kvIoPinGetDigital)
ABSENT(kvIoPinGetInfo) ABSENT(kvIoPinGetOutputAnalog) ABSENT(kvIoPinGetOutputDigital)
ABSENT(kvIoPinGetOutputRelay) ABSENT(kvIoPinSetAnalog) ABSENT(kvIoPinSetDigital) ABSENT(kvIoPinSetInfo)
ABSENT(kvIoPinSetRelay) ABSENT(kvReadDeviceCustomerData) ABSENT(kvScriptEnvvarClose)
ABSENT(kvScriptEnvvarGetData) ABSENT(kvScriptEnvvarGetFloat) ABSENT(kvScriptEnvvarGetInt)
ABSENT(kvScriptEnvvarOpen) ABSENT(kvScriptEnvvarSetData) ABSENT(kvScriptEnvvarSetFloat)
ABSENT(kvScriptEnvvarSetInt) ABSENT(kvScriptGetText) ABSENT(kvScriptLoadFile) ABSENT(kvScriptLoadFileOnDevice)
ABSENT(kvScriptRequestText) ABSENT(kvScriptSendEvent) ABSENT(kvScriptStart) ABSENT(kvScriptStatus)
ABSENT(kvScriptStop) ABSENT(kvScriptTxeGetData) ABSENT(kvScriptUnload) ABSENT(kvSetNotifyCallback)
ABSENT(kvTimeDomainCreate) ABSENT(kvTimeDomainDelete) ABSENT(kvTimeDomainAddHandle)
ABSENT(kvTimeDomainRemoveHandle) ABSENT(kvTimeDomainGetData) ABSENT(kvTimeDomainResetTime)
