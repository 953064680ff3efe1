"""Django 5: migrations as the migrator, then the ORM as a tenant: models that name tenant_id, that do not, and db_default."""

import os
import sys

import django
from django.conf import settings

CANARY, TENANT = os.environ["DRIVER_CANARY"], int(os.environ["DRIVER_TENANT"])
E = os.environ
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "programs.blog"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": E["PGDATABASE"], "USER": E["PGUSER"], "PASSWORD": E["PGPASSWORD"], "HOST": E["PGHOST"],
                           "PORT": E["PGPORT"], "OPTIONS": {"sslmode": "disable"}, "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True,
                           # Another than the server's: Django sets it with SELECT set_config().
                           "TIME_ZONE": "America/Bogota"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", USE_TZ=True, TIME_ZONE="Europe/Vienna",
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, transaction  # noqa: E402
from django.db.models import Avg, Count, Exists, F, Max, OuterRef, Prefetch, Q, Subquery, Sum, Value, Window  # noqa: E402
from django.db.models.functions import Coalesce, Concat, Lower, RowNumber, TruncMonth  # noqa: E402
from django.utils.timezone import datetime, timezone  # noqa: E402
from programs.blog.models import Author, Comment, Post, Tag  # noqa: E402


def setup():
    call_command("migrate", verbosity=1)
    call_command("showmigrations")
    call_command("migrate", verbosity=0)  # nothing to do: only looks
    call_command("migrate", "blog", "0001", verbosity=0)
    call_command("migrate", verbosity=0)


def writes():
    tags = [Tag.objects.create(name=f"{CANARY} {n}") for n in "abc"]
    Tag.objects.bulk_create([Tag(name=f"{CANARY} bulk {n}") for n in range(5)])
    authors = [Author.objects.create(name=f"{CANARY} author {n}", email=f"a{n}@{CANARY}", profile={"token": CANARY, "n": n}) for n in range(3)]
    print("tenants", {a.tenant_id for a in authors})
    for n in range(12):
        post = Post(author=authors[n % 3], title=f"{CANARY} post {n:02}", body=CANARY, published=datetime(2026, 1 + n % 4, 1, tzinfo=timezone.utc), stars=n)
        post.save()
        post.tags.set(tags[: n % 4])
        Comment.objects.create(post=post, text=f"{CANARY} comment {n}")
    made = Comment.objects.bulk_create([Comment(post=post, text=f"{CANARY} bulk {n}") for n in range(50)], batch_size=20)
    print("bulk", len(made), {c.tenant_id for c in Comment.objects.all()}, all(c.pk for c in made))
    print("get_or_create", [Tag.objects.get_or_create(name=f"{CANARY} new")[1] for _ in range(2)])
    print("update_or_create", Author.objects.update_or_create(email=f"a0@{CANARY}", defaults={"name": f"{CANARY} changed"})[1])
    Author.objects.bulk_create([Author(name=f"{CANARY} upsert", email=f"a{n}@{CANARY}") for n in (0, 7)], update_conflicts=True, unique_fields=["tenant_id", "email"], update_fields=["name"])
    Tag.objects.bulk_create([Tag(name=f"{CANARY} a")], ignore_conflicts=True)
    print("update", Post.objects.filter(stars__gt=5).update(stars=F("stars") + 1, title=Concat("title", Value("!"))))
    posts = list(Post.objects.order_by("title"))
    for post in posts:
        post.body = f"{CANARY} new body"
    print("bulk_update", Post.objects.bulk_update(posts, ["body"], batch_size=5))
    posts[0].delete()
    print("delete", Comment.objects.filter(text__contains="bulk 4").delete()[0])


def reads():
    print("all", list(Post.objects.order_by("title").values("title", "stars", "author__name", "tenant_id")))
    print("select_related", [(p.title, p.author.name) for p in Post.objects.select_related("author").order_by("-stars")[:5]])
    print("prefetch", [(a.name, [(p.title, sorted(t.name for t in p.tags.all())) for p in a.posts.all()]) for a in Author.objects.prefetch_related(Prefetch("posts", Post.objects.order_by("title")), "posts__tags").order_by("email")])
    print("filters", Post.objects.filter(Q(title__icontains="POST 0") | Q(stars__in=[7, 8])).exclude(tags__name__endswith=" b").distinct().count())
    print("annotate", list(Author.objects.annotate(n=Count("posts"), s=Sum("posts__stars"), m=Max("posts__published")).order_by("email").values_list("email", "n", "s", "m")))
    print("aggregate", Post.objects.aggregate(Avg("stars"), Count("id"), total=Coalesce(Sum("stars"), 0)))
    print("exists", list(Author.objects.filter(Exists(Post.objects.filter(author=OuterRef("pk"), stars__gt=9))).order_by("email").values_list("email", flat=True)))
    newest = Post.objects.filter(author=OuterRef("pk")).order_by("-stars").values("title")[:1]
    print("subquery", list(Author.objects.annotate(best=Subquery(newest)).order_by("email").values_list("email", "best")))
    print("window", list(Post.objects.annotate(r=Window(RowNumber(), partition_by="author_id", order_by="title")).order_by("title").values_list("title", "r")))
    print("months", list(Post.objects.annotate(m=TruncMonth("published")).values("m").annotate(n=Count("id")).order_by("m").values_list("m", "n")))
    print("json", list(Author.objects.filter(profile__token=CANARY, profile__n__gte=1).values_list("profile__n", flat=True).order_by("email")), Author.objects.filter(profile__has_key="token").count())
    print("lower", list(Tag.objects.annotate(l=Lower("name")).order_by("l").values_list("l", flat=True)))
    print("dates", list(Post.objects.dates("published", "month")), Post.objects.filter(published__year=2026, published__month=2).count())
    print("union", list(Tag.objects.values_list("name").union(Author.objects.values_list("name")).order_by("name")))
    print("in subquery", Comment.objects.filter(post__in=Post.objects.filter(stars__gt=3)).count())
    print("first last", Post.objects.order_by("title").first().title, Post.objects.order_by("title").last().title, Post.objects.filter(title="none").exists(), Post.objects.none().count())
    print("iterator", [p.title for p in Post.objects.order_by("title").iterator(chunk_size=3)])
    print("only", [p.title for p in Post.objects.only("title").order_by("title")[:2]], [p.stars for p in Post.objects.defer("body").order_by("title")[:2]])
    print("raw", [p.title for p in Post.objects.raw("SELECT id, title FROM blog_post WHERE stars > %s ORDER BY title", [8])])
    print("reverse", Tag.objects.filter(posts__author__email=f"a1@{CANARY}").distinct().count(), Author.objects.get(email=f"a1@{CANARY}").posts.filter(stars__lt=5).count())
    with connection.cursor() as cursor:
        cursor.execute("SELECT email, note FROM accounts ORDER BY id LIMIT %s", [3])
        print("cursor", cursor.fetchall())
        print("introspection", sorted(connection.introspection.table_names(cursor)), [(c.name, c.null_ok, c.default) for c in connection.introspection.get_table_description(cursor, "accounts")])
        print("constraints", sorted(connection.introspection.get_constraints(cursor, "orders")), connection.introspection.get_relations(cursor, "orders"), connection.introspection.get_sequences(cursor, "orders"))
    call_command("inspectdb", "accounts", "orders", "blog_post")


def transactions():
    try:
        with transaction.atomic():
            Tag.objects.create(name=f"{CANARY} lost")
            with transaction.atomic():
                Tag.objects.create(name=f"{CANARY} a")
    except IntegrityError as e:
        print("integrity", e.__cause__.sqlstate)
    with transaction.atomic():
        Tag.objects.create(name=f"{CANARY} kept")
        try:
            with transaction.atomic():
                raise KeyError
        except KeyError:
            pass
        print("locked", [p.title for p in Post.objects.select_for_update(of=("self",)).order_by("title")[:2]])
        transaction.on_commit(lambda: print("committed"))
    print("tags", Tag.objects.filter(name__endswith="kept").count(), Tag.objects.filter(name__endswith="lost").count())
    connection.close_if_unusable_or_obsolete()
    print("cleaned", Post.objects.all().delete()[0] > 0, Author.objects.all().delete()[0] > 0, Tag.objects.all().delete()[0] > 0)
    connection.close()


if __name__ == "__main__":
    if sys.argv[1] == "setup":
        setup()
    else:
        for part in (writes, reads, transactions):
            print("=====", part.__name__)
            part()
