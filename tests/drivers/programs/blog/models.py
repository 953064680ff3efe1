import os

from django.db import models
from django.db.models.expressions import RawSQL


def current_tenant():
    return int(os.environ["DRIVER_TENANT"])


class Author(models.Model):
    """Names the tenant: a default in Python."""

    tenant_id = models.IntegerField(default=current_tenant)
    name = models.CharField(max_length=100)
    email = models.EmailField()
    profile = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant_id", "email"], name="author_email")]


class Tag(models.Model):
    """Knows nothing of tenants: a migration in SQL adds the column."""

    name = models.CharField(max_length=100)


class Post(models.Model):
    tenant_id = models.IntegerField(default=current_tenant, db_index=True)
    author = models.ForeignKey(Author, models.CASCADE, related_name="posts")
    title = models.CharField(max_length=200)
    body = models.TextField(blank=True)
    published = models.DateTimeField(null=True)
    stars = models.PositiveIntegerField(default=0)
    tags = models.ManyToManyField(Tag, related_name="posts")


class Comment(models.Model):
    """The server's default: Django writes DEFAULT in its place."""

    tenant_id = models.IntegerField(db_default=RawSQL("current_setting('solo.tenant', true)::int", []))
    post = models.ForeignKey(Post, models.CASCADE, related_name="comments")
    text = models.TextField()
    created = models.DateTimeField(auto_now_add=True)
