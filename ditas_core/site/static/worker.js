// The service worker: the page and the runtime are there with the network off. The models are kept
// by the one who fetches them (engine.js).

importScripts("worker-files.js");
const OURS = `ditas-page ${self.registration.scope} `; // another site may have the same host
const PAGE = OURS + self.SITE.version, MODELS = "ditas-models";

self.addEventListener("install", (event) => {
  const wanted = self.SITE.files.map((file) => new Request(file, { cache: "no-cache" }));
  event.waitUntil(
    caches.open(PAGE).then((cache) => cache.addAll(wanted)).then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(cleaned().then(() => self.clients.claim()));
});

/** Pages of older versions go, and models that the manifest no longer names. */
async function cleaned() {
  for (const name of await caches.keys()) {
    if (name.startsWith(OURS) && name !== PAGE) await caches.delete(name);
  }
  const cache = await caches.open(MODELS);
  for (const request of await cache.keys()) {
    const [before, file] = request.url.split(self.registration.scope);
    if (before === "" && !self.SITE.models.includes(file)) await cache.delete(request);
  }
}

self.addEventListener("fetch", (event) => {
  const address = new URL(event.request.url);
  if (event.request.method !== "GET" || !address.href.startsWith(self.registration.scope)) return;
  event.respondWith(answer(event.request));
});

async function answer(request) {
  const page = await caches.open(PAGE);
  const kept = await page.match(request, { ignoreSearch: true });
  if (kept) return kept;
  const fresh = await fetch(request);
  // the recorded results are large: kept once they were looked at
  if (fresh.ok && request.mode === "navigate") await page.put(request, fresh.clone());
  return fresh;
}
