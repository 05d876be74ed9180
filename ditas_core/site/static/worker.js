// The service worker: what was loaded once is there with the network off.

importScripts("worker-files.js");
const PAGE = `ditas-page-${self.SITE.version}`, MODELS = "ditas-models";

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
    if (name.startsWith("ditas-page-") && name !== PAGE) await caches.delete(name);
  }
  const cache = await caches.open(MODELS);
  for (const request of await cache.keys()) {
    const file = request.url.replace(self.registration.scope, "");
    if (!self.SITE.models.includes(file)) await cache.delete(request);
  }
}

self.addEventListener("fetch", (event) => {
  const address = new URL(event.request.url);
  if (event.request.method !== "GET" || !address.href.startsWith(self.registration.scope)) return;
  event.respondWith(answer(event.request, address));
});

async function answer(request, address) {
  const page = await caches.open(PAGE);
  const kept = await page.match(request, { ignoreSearch: true });
  if (kept) return kept;
  const file = address.href.replace(self.registration.scope, "");
  if (!self.SITE.models.includes(file)) return fetch(request);
  const models = await caches.open(MODELS);
  const found = await models.match(request);
  if (found) return found;
  const fresh = await fetch(request);
  // kept only whole: put() fails, and keeps nothing, where the answer breaks off
  if (fresh.ok) models.put(request, fresh.clone()).catch(() => {});
  return fresh;
}
