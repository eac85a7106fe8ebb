/* The signal processing between the transforms, for each stream and hop, as the modules of numpy beside it have it:
   bands.py, pitch.py, comb.py, coherence.py, features.py, resynthesis.py and postfilter.py say what and why, and hand
   their tables over. Numpy takes 3 µs for each of its 250 operations, however few the calls are.

   What a stream gets never depends on the others in a batch, nor on how many hops come at once. GNU C11 without
   Python's headers; called through ctypes, so without the interpreter's lock. */

#include <math.h>
#include <stdint.h>
#include <string.h>

enum {
    HOP = 480, WINDOW = 960, BINS = 481, LOOKAHEAD = 2, BANDS = 34, LAST_KNOT = 400, FEATURES = 2 * BANDS + 2,
    DECIMATION = 4, MIN_PERIOD = 96, MAX_PERIOD = 768, PERIODS = MAX_PERIOD + 1,
    HOP12 = HOP / DECIMATION, BINS12 = HOP12 + 1, MIN_LAG = MIN_PERIOD / DECIMATION, MAX_LAG = MAX_PERIOD / DECIMATION,
    LAGS = MAX_LAG - MIN_LAG + 1, SEGMENT = 240, SPAN = SEGMENT + MAX_LAG, KEPT = SPAN - HOP12,
    REACH = 9, STEP = 4, NEAR = 4, FINE = DECIMATION + 1, SIDE_TAPS = 5, TAPS = 2 * SIDE_TAPS + 1,
    SPEECH_START = 2, SPEECH_STOP = 28, TILE = 32,
};

/* Functions compiled for AVX2, too; the better one is taken where the program runs. */
#ifndef __has_attribute
#define __has_attribute(name) 0
#endif
#if defined(__x86_64__) && defined(__GLIBC__) && __has_attribute(target_clones)
#define MULTIVERSIONED __attribute__((target_clones("avx2", "default")))
#else
#define MULTIVERSIONED
#endif
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    const int32_t *knots;                              /* [BANDS] */
    const float *upper, *widths;                       /* bands: [BINS], [BANDS] */
    const float *emphasis, *triangle, *covered;        /* pitch: [BINS12], [2 · REACH + 1], [BINS12] */
    const float *window12, *fractions;                 /* pitch: [2 · HOP12], [2 · NEAR + 1, FINE] */
    const float *window, *weights;                     /* of transforms: [WINDOW]; comb: [PERIODS, TAPS] */
    const float *quadratic, *octave;                   /* coherence: [6, PERIODS]; features: [PERIODS] */
    float flattening, step_cost, jump_cost, energy_rate; /* pitch */
    float floor, attack, release, behind;              /* features */
    float beta;                                        /* post-filter */
} Tables;

/* What is kept of a stream, as analysis.AnalysisState has it. */
typedef struct {
    float spectra[LOOKAHEAD][2 * BINS], band_energy[LOOKAHEAD][BANDS], reference;
    float tail[HOP12], excitation[KEPT], correlation[LAGS], score[LAGS], energy; /* pitch.PitchState */
} State;

static Tables table;

void percepnet_set_tables(const Tables *tables) { table = *tables; }

uint32_t percepnet_source_crc(void) { return SOURCE; } /* of this file: the build defines it */

/* What the modules of numpy must have as this file has it. */
const int32_t percepnet_layout[] = {
    HOP, BINS, LOOKAHEAD, BANDS, LAST_KNOT, FEATURES, DECIMATION, MIN_PERIOD, MAX_PERIOD, SEGMENT, REACH, STEP,
    SIDE_TAPS, SPEECH_START, SPEECH_STOP, sizeof(State) / sizeof(float),
};

INLINE float minf(float a, float b) { return a < b ? a : b; }
INLINE float maxf(float a, float b) { return a > b ? a : b; }

INLINE float sum(const float *x, int n) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < n; i++) total += x[i];
    return total;
}

INLINE float sum_of_squares(const float *x, int n) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < n; i++) total += x[i] * x[i];
    return total;
}

INLINE int argmax(const float *x, int n) {
    float best = x[0];
#pragma omp simd reduction(max : best)
    for (int i = 1; i < n; i++) best = maxf(best, x[i]);
    int at = 0;
    while (at < n - 1 && x[at] != best) at++;
    return at;
}

/* bands.sums: triangle-weighted sums of `values [LAST_KNOT + 1]`. */
INLINE void band_sums(const float *values, float *sums) {
    float above = 0;
    for (int band = 0; band < BANDS - 1; band++) {
        const int low = table.knots[band], high = table.knots[band + 1];
        float whole = 0, upper = 0;
#pragma omp simd reduction(+ : whole, upper)
        for (int bin = low; bin < high; bin++) {
            whole += values[bin];
            upper += values[bin] * table.upper[bin];
        }
        sums[band] = above + (whole - upper);
        above = upper;
    }
    sums[0] *= 2;
    sums[BANDS - 1] = 2 * (above + values[LAST_KNOT]);
}

/* bands.interpolate: band values to all bins. */
INLINE void interpolate(const float *values, float *bins) {
    for (int band = 0; band < BANDS - 1; band++) {
        const float value = values[band], rise = values[band + 1] - value;
        for (int bin = table.knots[band]; bin < table.knots[band + 1]; bin++) bins[bin] = value + rise * table.upper[bin];
    }
    for (int bin = LAST_KNOT; bin < BINS; bin++) bins[bin] = values[BANDS - 1];
}

INLINE void power(const float *spectrum, float *squares, int bins) {
    for (int bin = 0; bin < bins; bin++)
        squares[bin] = spectrum[2 * bin] * spectrum[2 * bin] + spectrum[2 * bin + 1] * spectrum[2 * bin + 1];
}

/* bands.energy, and the first half of pitch._excite: spectra [frames, BINS] to what of them is transformed back for
   the excitation [frames, BINS12], and band energies [frames, BANDS]. */
MULTIVERSIONED void percepnet_flatten(int64_t frames, const float *spectra, float *flattened, float *energy) {
    for (int64_t frame = 0; frame < frames; frame++) {
        const float *spectrum = spectra + frame * 2 * BINS;
        float squares[REACH + LAST_KNOT + 1] = {0}; /* nothing below 0 Hz */
        power(spectrum, squares + REACH, LAST_KNOT + 1);
        band_sums(squares + REACH, energy + frame * BANDS);

        memset(squares + REACH + BINS12, 0, REACH * sizeof(float)); /* nor above 6 kHz */
        float envelope[BINS12] = {0};
        for (int tap = 0; tap <= 2 * REACH; tap++)
            for (int bin = 0; bin < BINS12; bin++) envelope[bin] += table.triangle[tap] * squares[bin + tap];
        for (int bin = 0; bin < BINS12; bin++) envelope[bin] = envelope[bin] / table.covered[bin] + 1e-9f;
        const float level = sum(envelope, BINS12) / BINS12, root = sqrtf(level);
        float *low = flattened + frame * 2 * BINS12;
        for (int bin = 0; bin < BINS12; bin++) {
            const float scale = table.emphasis[bin] * powf(envelope[bin] / level, -table.flattening / 2) / root;
            low[2 * bin] = spectrum[2 * bin] * scale;
            low[2 * bin + 1] = spectrum[2 * bin + 1] * scale;
        }
    }
}

/* pitch._correlate: of a segment [SPAN] for all lags. */
INLINE void correlate(const float *segment, float *correlation) {
    float cross[LAGS]; /* by shift: MAX_LAG − lag */
    for (int start = 0; start < LAGS; start += TILE) {
        float tile[TILE] = {0};
        const int from = start + TILE > LAGS ? LAGS - TILE : start; /* the last one overlaps */
        for (int n = 0; n < SEGMENT; n++)
            for (int i = 0; i < TILE; i++) tile[i] += segment[MAX_LAG + n] * segment[from + i + n];
        memcpy(cross + from, tile, sizeof tile);
    }
    float total[SPAN + 1]; /* running energy */
    total[0] = 0;
    for (int n = 0; n < SPAN; n++) total[n + 1] = total[n] + segment[n] * segment[n];
    const float own = 1e-3f + (total[SPAN] - total[MAX_LAG]);
    for (int lag = 0; lag < LAGS; lag++) {
        const int shift = LAGS - 1 - lag;
        correlation[lag] = 2 * cross[shift] / (own + (total[shift + SEGMENT] - total[shift]));
    }
}

/* pitch._discounted, times a weight. */
INLINE void discount(const float *correlation, float weight, float *gain) {
    float near[LAGS - 2];
    for (int i = 0; i < LAGS - 2; i++) near[i] = maxf(maxf(correlation[i], correlation[i + 1]), correlation[i + 2]);
    for (int i = 0; i < LAGS; i++) gain[i] = correlation[i] * weight;
    for (int i = MIN_LAG; i < LAGS; i++)
        if (correlation[i] < 1.1f * near[(i + MIN_LAG) / 2 - MIN_LAG]) gain[i] = 0.8f * correlation[i] * weight;
}

/* pitch._viterbi, one hop: extends the paths of score [STEP + LAGS + STEP]; the lag of the best one hop before. */
INLINE int extend(float *score, const float *gain, int *origin) {
    float now[LAGS];
    for (int lag = 0; lag < LAGS; lag++) now[lag] = -table.jump_cost;
    for (int move = 0; move <= 2 * STEP; move++) {
        const float cost = table.step_cost * ((move - STEP) * (move - STEP));
        for (int lag = 0; lag < LAGS; lag++) now[lag] = maxf(now[lag], score[lag + move] - cost);
    }
    for (int lag = 0; lag < LAGS; lag++) now[lag] += gain[lag];
    const int end = argmax(now, LAGS);
    float best_path = -INFINITY;
    int before = 0;
    for (int move = 0; move <= 2 * STEP; move++) {
        const float cost = table.step_cost * ((move - STEP) * (move - STEP));
        if (score[end + move] - cost > best_path) {
            best_path = score[end + move] - cost;
            before = end + move - STEP;
        }
    }
    if (best_path < -table.jump_cost) before = *origin;
    *origin = end;
    const float best = now[end];
    for (int lag = 0; lag < LAGS; lag++) score[STEP + lag] = now[lag] - best;
    return before;
}

/* The end of pitch.track: refines a lag by the correlation around it. */
INLINE int64_t refine(const float *correlation, int lag, float *peak) {
    float fine[FINE] = {0};
    for (int i = 0; i <= 2 * NEAR; i++) {
        const int near = lag + i - NEAR;
        const float value = correlation[near < 0 ? 0 : near >= LAGS ? LAGS - 1 : near];
        for (int k = 0; k < FINE; k++) fine[k] += value * table.fractions[i * FINE + k];
    }
    const int best = argmax(fine, FINE);
    *peak = minf(maxf(fine[best], -1), 1);
    const int period = (lag + MIN_LAG) * DECIMATION + best - DECIMATION / 2;
    return period < MIN_PERIOD ? MIN_PERIOD : period > MAX_PERIOD ? MAX_PERIOD : period;
}

/* comb.comb: the frame that begins at `first` of samples, windowed for its transform; no tap begins beyond `last`. */
INLINE void comb(const float *samples, int64_t first, int64_t last, int64_t period, float *frame) {
    const float *weights = table.weights + period * TAPS;
    memset(frame, 0, WINDOW * sizeof(float));
    for (int tap = 0; tap < TAPS; tap++) {
        const int64_t start = first - (tap - SIDE_TAPS) * period;
        const float weight = weights[tap];
        if (weight == 0 || start > last) continue;
        for (int n = 0; n < WINDOW; n++) frame[n] += weight * samples[start + n];
    }
    for (int n = 0; n < WINDOW; n++) frame[n] *= table.window[n];
}

/* The rest of pitch.track, and comb.comb: frames of the excitation [n, hops, 2 · HOP12], not windowed, and samples
   [n, size], to periods and correlations [n, hops] and comb-filtered, windowed frames. */
MULTIVERSIONED void percepnet_track(int64_t n, int64_t hops, State *states, const float *frames,
                              const float *samples, int64_t size, int64_t *period, float *peak, float *combed) {
    for (int64_t i = 0; i < n; i++) {
        State *state = states + i;
        float segment[SPAN], score[LAGS + 2 * STEP];
        for (int k = 0; k < STEP; k++) score[k] = score[STEP + LAGS + k] = -INFINITY;
        memcpy(score + STEP, state->score, sizeof state->score);
        int origin = argmax(score + STEP, LAGS);
        const int64_t last = size - WINDOW, first = last - (LOOKAHEAD + hops - 1) * HOP;
        for (int64_t hop = 0; hop < hops; hop++) {
            const int64_t at = i * hops + hop;
            const float *frame = frames + at * 2 * HOP12;
            memcpy(segment, state->excitation, sizeof state->excitation);
            for (int k = 0; k < HOP12; k++) {
                segment[KEPT + k] = frame[k] * table.window12[k] + state->tail[k];
                state->tail[k] = frame[HOP12 + k] * table.window12[HOP12 + k];
            }
            memcpy(state->excitation, segment + HOP12, sizeof state->excitation);
            float correlation[LAGS], gain[LAGS];
            correlate(segment, correlation);
            const float now = sum_of_squares(segment + MAX_LAG, SEGMENT);
            state->energy += table.energy_rate * (now - state->energy);
            discount(correlation, minf(now / (state->energy + 1e-6f), 2), gain);
            const int lag = extend(score, gain, &origin);
            period[at] = refine(state->correlation, lag, peak + at);
            memcpy(state->correlation, correlation, sizeof correlation);
            comb(samples + i * size, first + hop * HOP, last, period[at], combed + at * WINDOW);
        }
        memcpy(state->score, score + STEP, sizeof state->score);
    }
}

/* coherence.unbiased */
INLINE float unbiased(float measured, int64_t period) {
    const float *q = table.quadratic + period;
    const float noise = q[0], other = q[PERIODS], square = q[2 * PERIODS], cross = q[3 * PERIODS];
    const float twice_a = q[4 * PERIODS], four_a = q[5 * PERIODS], m2 = measured * measured;
    if (!(m2 * noise > square)) return 0;
    const float b = cross - m2 * other;
    const float root = (sqrtf(maxf(b * b - four_a * (square - m2 * noise), 0)) - b) / twice_a;
    return sqrtf(minf(maxf(root, 0), 1));
}

/* The rest of analysis.analyse, features.features included. Takes the spectra and band energies of the newest frames
   [n, hops, …]; gives those of LOOKAHEAD hops before, and what is measured of them. */
MULTIVERSIONED void percepnet_measure(int64_t n, int64_t hops, State *states, const float *newest,
                                const float *newest_energy, const float *combed, const int64_t *period,
                                const float *peak, float *spectra, float *energy, float *comb_energy, float *measured,
                                float *features) {
    for (int64_t i = 0; i < n; i++) {
        State *state = states + i;
        for (int64_t hop = 0; hop < hops; hop++) {
            const int64_t at = i * hops + hop;
            const float *comb_spectrum = combed + at * 2 * BINS, *now = newest_energy + at * BANDS;
            float *spectrum = spectra + at * 2 * BINS, *bands = energy + at * BANDS, *inputs = features + at * FEATURES;
            memcpy(spectrum, state->spectra[0], sizeof state->spectra[0]);
            memcpy(bands, state->band_energy[0], sizeof state->band_energy[0]);
            for (int k = 1; k < LOOKAHEAD; k++) {
                memcpy(state->spectra[k - 1], state->spectra[k], sizeof state->spectra[k]);
                memcpy(state->band_energy[k - 1], state->band_energy[k], sizeof state->band_energy[k]);
            }
            memcpy(state->spectra[LOOKAHEAD - 1], newest + at * 2 * BINS, sizeof state->spectra[0]);
            memcpy(state->band_energy[LOOKAHEAD - 1], now, sizeof state->band_energy[0]);

            float bins[LAST_KNOT + 1], cross[BANDS];
            power(comb_spectrum, bins, LAST_KNOT + 1);
            band_sums(bins, comb_energy + at * BANDS);
            for (int bin = 0; bin <= LAST_KNOT; bin++)
                bins[bin] = comb_spectrum[2 * bin] * spectrum[2 * bin] + comb_spectrum[2 * bin + 1] * spectrum[2 * bin + 1];
            band_sums(bins, cross);

            const float loudness = log10f(sum(now + SPEECH_START, SPEECH_STOP - SPEECH_START) / (SPEECH_STOP - SPEECH_START)
                                          + table.floor);
            if (isnan(state->reference)) state->reference = loudness;
            const float change = loudness - state->reference;
            state->reference += maxf(maxf(table.attack * change, table.release * change), change - table.behind);
            for (int band = 0; band < BANDS; band++) {
                const float level = log10f(now[band] / table.widths[band] + table.floor) - state->reference;
                inputs[band] = 0.5f * minf(maxf(level, -6), 3);
                const float ratio = cross[band] / sqrtf(bands[band] * comb_energy[at * BANDS + band] + 1e-18f);
                measured[at * BANDS + band] = minf(maxf(ratio, 0), 1);
                inputs[BANDS + band] = unbiased(measured[at * BANDS + band], period[at]);
            }
            inputs[2 * BANDS] = table.octave[period[at]];
            inputs[2 * BANDS + 1] = peak[at];
        }
    }
}

/* postfilter.envelope_postfilter, its share of the gain being `post` */
INLINE void postfilter(float *gain, const float *energy, float post) {
    float warped[BANDS], before = 0, after = 0;
    for (int band = 0; band < BANDS; band++) {
        warped[band] = gain[band] * sinf((float)(3.14159265358979323846 / 2) * gain[band]);
        before += gain[band] * gain[band] * energy[band];
        after += warped[band] * warped[band] * energy[band];
    }
    const float ratio = minf(maxf(before / maxf(after, 1e-20f), 1), 1e6f);
    const float back = sqrtf((1 + table.beta) * ratio / (1 + table.beta * ratio * ratio));
    for (int band = 0; band < BANDS; band++) gain[band] += post * (warped[band] * back - gain[band]);
}

/* postfilter.envelope_postfilter by the shares post [frames], then resynthesis.enhance_spectra: enhanced [frames, BINS] */
MULTIVERSIONED void percepnet_enhance(int64_t frames, const float *spectra, const float *combed, const float *energy,
                                const float *comb_energy, const float *gains, const float *strengths, const float *post,
                                float *enhanced) {
    const float tiny = 1e-12f;
    for (int64_t frame = 0; frame < frames; frame++) {
        const float *own = energy + frame * BANDS, *strength = strengths + frame * BANDS;
        const float *y = spectra + frame * 2 * BINS, *p = combed + frame * 2 * BINS;
        float *z = enhanced + frame * 2 * BINS;
        float gain[BANDS], rest[BANDS], share[BANDS], scale[BANDS], a[BINS], b[BINS];
        memcpy(gain, gains + frame * BANDS, sizeof gain);
        if (post[frame] > 0) postfilter(gain, own, post[frame]);
        for (int band = 0; band < BANDS; band++) {
            rest[band] = 1 - strength[band];
            share[band] = strength[band] * minf(sqrtf(own[band] / maxf(comb_energy[frame * BANDS + band], tiny)), 30);
        }
        interpolate(rest, a);
        interpolate(share, b);
        for (int bin = 0; bin < BINS; bin++) {
            z[2 * bin] = a[bin] * y[2 * bin] + b[bin] * p[2 * bin];
            z[2 * bin + 1] = a[bin] * y[2 * bin + 1] + b[bin] * p[2 * bin + 1];
        }
        power(z, a, LAST_KNOT + 1);
        band_sums(a, scale);
        for (int band = 0; band < BANDS; band++) {
            const float mixed = own[band] > tiny ? minf(sqrtf(own[band] / maxf(scale[band], tiny)), 30) : 1;
            scale[band] = mixed * gain[band];
        }
        interpolate(scale, a);
        for (int bin = 0; bin < BINS; bin++) {
            z[2 * bin] *= a[bin];
            z[2 * bin + 1] *= a[bin];
        }
    }
}
