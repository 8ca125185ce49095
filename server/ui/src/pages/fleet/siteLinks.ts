/** The list of a site's devices; of those without a site, where it is empty. */
export function toSite(site: string, more = ""): string {
  return `/fleet?site=${encodeURIComponent(site)}${more}`;
}
